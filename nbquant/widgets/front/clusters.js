// Cells, centres and codeword lengths over the weight histogram; a centre can be taken by mouse or keys.

const REACH = 10; // px from a dot that still take it
const HEADROOM = 1.12; // over the longest codeword
const GHOST = 0.22; // of the height that stems of another codebook take

/** Even ticks up to the longest codeword. */
function lengthTicks(longest) {
  const step = Math.max(1, Math.round(longest / 5));
  return Array.from({ length: Math.floor((longest * HEADROOM) / step) + 1 }, (_, i) => i * step);
}

/** Put the dots that lie outside the axis into a strip at its end, beyond a break, evenly in their order. */
function besideBreaks(dots, left, right, factor) {
  const sides = { left: { count: 0, at: left }, right: { count: 0, at: right } };
  const step = Math.min(12 * factor, (0.1 * (right - left)) / Math.max(dots.x.filter((at) => at < left || at > right).length, 1));
  for (const [side, isOut, from, way] of [
    ["left", (at) => at < left, left, 1],
    ["right", (at) => at > right, right, -1],
  ]) {
    const out = Array.from(dots.x.keys()).filter((j) => isOut(dots.x[j]));
    if (way < 0) out.reverse(); // the outermost stands at the end
    out.forEach((j, i) => {
      dots.x[j] = from + way * step * (i + 0.8);
      dots.beyond.add(j);
    });
    sides[side] = { count: out.length, at: from + way * step * (out.length + 0.6) };
  }
  return sides;
}

/** Clear the strips beyond the breaks, and draw the breaks as zigzags. */
function drawBreaks({ context, left, right, top, bottom }, breaks, colours, factor) {
  for (const [{ count: some, at }, end] of [
    [breaks.left, left],
    [breaks.right, right],
  ]) {
    if (!some) continue;
    context.fillStyle = colours.background;
    context.fillRect(Math.min(at, end), top, Math.abs(at - end), bottom - top);
    context.strokeStyle = colours.muted;
    context.lineWidth = factor;
    context.beginPath();
    const tooth = 5 * factor;
    for (let y = top, i = 0; y <= bottom; y += tooth, i++) context[i ? "lineTo" : "moveTo"](at + (i % 2 ? 1 : -1) * 2 * factor, y);
    context.stroke();
  }
}

/**
 * Draw over the histogram, and watch the pointer and keys there.
 *
 * `live` has `point()`, `colours()`, `factor()`, `font(size)`, `family()`, `ghosts()`, `brushed()`, `move(index, value)`, `release()`
 * and `say(text)`.
 */
function clusterOverlay(node, canvas, told, palette, live) {
  let places = null; // of the dots [px]
  let cells = null;
  let measured = null; // the point that `cells` are of
  let chosen = -1;
  let pointed = NaN; // weight under the pointer
  let dragged = -1;
  let grip = 0; // px between the pointer and the dot it took

  const name = (j) => {
    const point = live.point();
    const total = point.count.reduce((sum, n) => sum + n, 0);
    const word = point.codeword?.[j];
    const bits = `${significant(point.length[j])} bit`;
    return (
      `centre ${j + 1} of ${point.centre.length} at ${significant(point.centre[j], 4)}: ${count(point.count[j])} weights ` +
      `(${percent(point.count[j] / total)}), codeword ${word && word.length <= 24 ? `${word} (${bits})` : `of ${bits}`}`
    );
  };

  function tell() {
    let text = "";
    if (live.point() && cells) {
      if (dragged >= 0) text = name(dragged);
      else if (Number.isFinite(pointed)) {
        const about = cells.exact ? "" : " at mean h";
        text = `weight ${significant(pointed, 4)} → ${name(cells.index[cellOf(cells, pointed)])}${about}`;
      } else if (chosen >= 0) text = name(chosen);
    }
    put(told, "textContent", text);
  }

  function draw() {
    const place = surface(canvas, node);
    const point = live.point();
    places = null;
    if (!place) return;
    if (!point?.centre?.length) {
      brush(place);
      return;
    }
    if (measured !== point) [cells, measured] = [cellsOf(point), point];
    if (chosen >= point.centre.length) chosen = -1;
    const { context, x, left, right, top, bottom } = place;
    const colours = live.colours();
    const factor = live.factor();
    const height = bottom - top;
    const longest = point.length.reduce((most, bits) => Math.max(most, bits), 1);
    const k = point.centre.length;
    const apart = x._length / k;
    const radius = factor * (apart > 14 ? 4.5 : apart > 6 ? 3.5 : 2.5);
    const dots = { x: new Float64Array(k), y: new Float64Array(k), radius, beyond: new Set() };
    for (let j = 0; j < k; j++) {
      dots.x[j] = pixelOf(x, point.centre[j]);
      dots.y[j] = bottom - (height * point.length[j]) / (HEADROOM * longest);
    }
    const breaks = besideBreaks(dots, left, right, factor);
    places = dots;
    clipped(place, () => {
      tints(place, colours, factor);
      drawBreaks(place, breaks, colours, factor);
      context.strokeStyle = context.fillStyle = palette.centre;
      context.lineWidth = factor * (apart > 8 ? 1.5 : 0.75);
      context.beginPath();
      for (let j = 0; j < k; j++) {
        context.moveTo(dots.x[j], bottom);
        context.lineTo(dots.x[j], dots.y[j]);
      }
      context.stroke();
      context.beginPath();
      for (let j = 0; j < k; j++) {
        context.moveTo(dots.x[j] + radius, dots.y[j]);
        context.arc(dots.x[j], dots.y[j], radius, 0, 2 * Math.PI);
      }
      context.fill();
      for (const j of [chosen, dragged]) {
        if (j < 0) continue;
        context.strokeStyle = colours.foreground;
        context.lineWidth = 2 * factor;
        context.beginPath();
        context.arc(dots.x[j], dots.y[j], radius + 3 * factor, 0, 2 * Math.PI);
        context.stroke();
      }
    });
    brush(place);
    ghosts(place, colours, factor);
    scale(place, longest, factor);
    const remarks = [];
    if (!cells?.exact && cells) remarks.push("boundaries at mean h");
    if (remarks.length) {
      context.textAlign = "right";
      context.textBaseline = "middle";
      context.font = `${live.font(11)}px ${live.family()}`;
      const style = { colour: colours.foreground, background: colours.background, size: live.font(11) };
      plate(context, remarks.join(", "), right - 6, top + 9 * factor, style);
    }
    tell();
  }

  function tints({ context, x, left, right, top, bottom }, colours, factor) {
    if (!cells) return;
    const { index, boundary } = cells;
    const here = dragged >= 0 ? dragged : Number.isFinite(pointed) ? index[cellOf(cells, pointed)] : chosen;
    const edge = new Float64Array(boundary.length + 2);
    edge[0] = left;
    for (let i = 0; i < boundary.length; i++) edge[i + 1] = pixelOf(x, boundary[i]);
    edge[boundary.length + 1] = right;
    for (let i = 0; i < index.length; i++) {
      if (i % 2 === 0 && index[i] !== here) continue;
      context.fillStyle = index[i] === here ? palette.centre : palette.cell;
      context.globalAlpha = index[i] === here ? 0.2 : 0.16;
      context.fillRect(edge[i], top, edge[i + 1] - edge[i], bottom - top);
    }
    context.globalAlpha = 1;
    if (boundary.length * 5 > right - left) return; // tints alone show cells that are a few pixels wide
    context.strokeStyle = colours.muted;
    context.lineWidth = factor;
    context.setLineDash(cells.exact ? [] : [5 * factor, 4 * factor]);
    context.beginPath();
    for (let i = 1; i <= boundary.length; i++) {
      context.moveTo(edge[i], bottom);
      context.lineTo(edge[i], top);
    }
    context.stroke();
    context.setLineDash([]);
  }

  /** The axis of codeword lengths, in the margin that the figure leaves free. */
  function scale({ context, right, top, bottom }, longest, factor) {
    const ticks = lengthTicks(longest);
    context.fillStyle = context.strokeStyle = live.colours().length;
    context.lineWidth = 1;
    context.font = `${live.font(12)}px ${live.family()}`;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.beginPath();
    context.moveTo(right + 0.5, top);
    context.lineTo(right + 0.5, bottom);
    for (const bits of ticks) {
      const y = bottom - ((bottom - top) * bits) / (HEADROOM * longest);
      context.moveTo(right, y);
      context.lineTo(right + 4 * factor, y);
      context.fillText(String(bits), right + 8 * factor, y);
    }
    context.stroke();
    context.save();
    context.translate(right + 40 * factor, (top + bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText(fitted("codeword length [bit]", bottom - top + 16 * factor, live.font(12), live.family()), 0, 0);
    context.restore();
  }

  /** Other codebooks, as stems from the top: back to back with the centres, which stand on the axis. */
  function ghosts(place, colours, factor) {
    const { context, x, left, right, top, bottom } = place;
    context.font = `${live.font(11)}px ${live.family()}`;
    context.textAlign = "left";
    context.textBaseline = "middle";
    live.ghosts().forEach(({ label, centre }, row) => {
      const colour = palette.ghosts[row % palette.ghosts.length];
      const end = top + GHOST * (bottom - top);
      const dots = { x: Float64Array.from(centre, (c) => pixelOf(x, c)), beyond: new Set() };
      besideBreaks(dots, left, right, factor);
      clipped(place, () => {
        context.strokeStyle = colour;
        context.fillStyle = colours.background;
        context.lineWidth = 1.5 * factor;
        for (const at of dots.x) {
          context.beginPath();
          context.moveTo(at, top);
          context.lineTo(at, end);
          context.stroke();
          context.beginPath();
          context.arc(at, end, 4 * factor, 0, 2 * Math.PI);
          context.fill();
          context.stroke();
        }
        const text = `${label}: ${centre.length} ${centre.length === 1 ? "centre" : "centres"}`;
        const style = { colour: colours.foreground, background: colours.background, size: live.font(11) };
        plate(context, text, left + 6, end + (14 + 16 * row) * factor, style);
      });
    });
  }

  /** The outline of the brushed weights, its highest bar at 90 % of the height. */
  function brush(place) {
    const { edge, height, label } = live.brushed();
    if (!edge?.length || !height?.length) return;
    const { context, x, y, left, top, bottom } = place;
    const colours = live.colours();
    const factor = live.factor();
    const most = height.reduce((a, b) => Math.max(a, b), 0);
    const share = y.type === "log" ? (n) => Math.log1p(n) / Math.log1p(most) : (n) => n / most;
    clipped(place, () => {
      context.strokeStyle = colours.foreground;
      context.lineWidth = 1.75 * factor;
      context.beginPath();
      context.moveTo(pixelOf(x, edge[0]), bottom);
      for (let i = 0; i < height.length; i++) {
        const level = bottom - 0.9 * (bottom - top) * (most > 0 ? share(height[i]) : 0);
        context.lineTo(pixelOf(x, edge[i]), level);
        context.lineTo(pixelOf(x, edge[i + 1]), level);
      }
      context.lineTo(pixelOf(x, edge[edge.length - 1]), bottom);
      context.stroke();
      context.textAlign = "left";
      context.textBaseline = "middle";
      context.font = `${live.font(11)}px ${live.family()}`;
      const style = { colour: colours.foreground, background: colours.background, size: live.font(11) };
      plate(context, `— ${label || "brushed weights"}, on a scale of its own`, left + 6, top + 9 * factor, style);
    });
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  function dotUnder(event) {
    if (!places) return -1;
    const [x, y] = at(event);
    const reach = event.pointerType === "touch" ? 2 * REACH : REACH;
    let [best, nearest] = [-1, reach];
    for (let j = 0; j < places.x.length; j++) {
      const away = Math.hypot(places.x[j] - x, places.y[j] - y);
      if (away < nearest) [best, nearest] = [j, away];
    }
    return best;
  }

  function point(weight) {
    const before = cells && Number.isFinite(pointed) ? cellOf(cells, pointed) : -1;
    pointed = weight;
    if (cells && before !== (Number.isFinite(pointed) ? cellOf(cells, pointed) : -1)) draw();
    else tell();
  }

  function onMove(event) {
    const axes = axesOf(node);
    if (!axes) return;
    const [x, y] = at(event);
    if (dragged >= 0) {
      live.move(dragged, valueAt(axes.x, Math.min(Math.max(x - grip, axes.x._offset), axes.x._offset + axes.x._length)));
      return;
    }
    node.classList.toggle("nbquant-over-dot", event.buttons === 0 && dotUnder(event) >= 0);
    const isOver =
      x >= axes.x._offset &&
      x <= axes.x._offset + axes.x._length &&
      y >= axes.y._offset &&
      y <= axes.y._offset + axes.y._length;
    point(isOver ? valueAt(axes.x, x) : NaN);
  }

  // Plotly starts its zoom at mousedown: off the dots it gets it.
  function onDown(event) {
    if (event.button !== 0 || event.ctrlKey || event.shiftKey) return;
    const taken = dotUnder(event);
    if (taken < 0) return;
    event.stopPropagation();
    event.preventDefault();
    if (event.type !== "pointerdown") return;
    chosen = taken;
    canvas.focus({ preventScroll: true });
    if (places.beyond.has(taken)) return draw(); // beyond a break there is no scale to drag along
    dragged = taken;
    grip = at(event)[0] - places.x[taken];
    node.parentElement.setPointerCapture(event.pointerId);
    draw();
  }

  // Else the page scrolls under the dot.
  function onTouch(event) {
    if (dragged < 0) return;
    event.stopPropagation();
    event.preventDefault();
  }

  function onUp() {
    if (dragged < 0) return;
    dragged = -1;
    draw();
  }

  function onKey(event) {
    const shown = live.point();
    const axes = axesOf(node);
    if (event.ctrlKey || event.altKey || event.metaKey || !shown?.centre?.length || !axes) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const last = shown.centre.length - 1;
    if (step && event.shiftKey && chosen >= 0) {
      live.move(chosen, shown.centre[chosen] + step * Math.abs(valueAt(axes.x, 1) - valueAt(axes.x, 0)));
    } else if (step) chosen = chosen < 0 ? (step > 0 ? 0 : last) : Math.min(Math.max(chosen + step, 0), last);
    else if (event.key === "Home") chosen = 0;
    else if (event.key === "End") chosen = last;
    else if (event.key === "Escape") {
      if (dragged >= 0 || live.point().by_hand) live.release();
      dragged = chosen = -1;
    } else return;
    event.preventDefault();
    event.stopPropagation();
    draw();
    if (chosen >= 0) live.say(name(chosen));
  }

  function onDouble(event) {
    if (dotUnder(event) < 0) return;
    event.stopPropagation();
    live.release();
  }

  const frame = node.parentElement;
  const listeners = [
    [frame, "pointermove", onMove, true],
    [frame, "pointerdown", onDown, true],
    [frame, "mousedown", onDown, true],
    [frame, "touchstart", onTouch, true],
    [frame, "pointerup", onUp, true],
    [frame, "pointercancel", onUp, true],
    [frame, "pointerleave", () => dragged < 0 && point(NaN), false],
    [frame, "dblclick", onDouble, true],
    [canvas, "keydown", onKey, false],
    [canvas, "blur", () => draw(), false],
  ];
  listeners.forEach(([target, type, listener, capture]) => target.addEventListener(type, listener, capture));
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("data-lm-suppress-shortcuts", "true");
  canvas.setAttribute(
    "aria-label",
    "Cluster centres: left and right arrow choose one, with Shift they move it, Escape releases it",
  );
  return {
    draw,
    get isDragging() {
      return dragged >= 0;
    },
    /** The centre in hand has another number: clusters that lost all their weights are gone. */
    renumber(from, to) {
      if (chosen === from) chosen = to;
      if (dragged === from) dragged = to;
    },
  };
}
