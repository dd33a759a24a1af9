// Draws a FigurePanel. bundle.py puts `loadPlotly` and the parts beside it before this text.

const REST = 400; // ms without a change
const PATIENCE = 1000; // ms, after which a move counts as answered

const titleOf = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

/** Put a panel's parts below each other. */
function stacked({ panel, drive, readout, ledger, grid, said, probe }) {
  panel.append(drive.section, readout.section, ledger.section, grid, said, probe);
}

/** Render the panel; `arrange(parts)` puts its parts into `parts.panel`, and may return what is to be done at the end. */
function figurePanel({ model, el }, arrange = stacked) {
  let Plotly = null; // unpacked and evaluated when there is something to draw: it takes a while
  const names = model.get("names");
  const kinds = model.get("kinds");
  const named = (...wanted) => names.filter((name) => wanted.includes(kinds[name]));
  const [clustered] = named("clusters");
  const maps = named("map");
  const palette = model.get("_palette");
  const ask = (message) => model.send(message);
  const tools = new Map([...names, "ledger"].map((name) => [name, toolRow(name, titleOf(name), ask)]));

  const probe = element("span", { className: "nbquant-figure-colour" });
  const said = element("div", { className: "nbquant-said", role: "status", "aria-live": "polite" });
  const grid = element("div", { className: "nbquant-panel-grid" });
  const blocked = model.get("blocked"); // only a whole explorer has actions
  const drive = driveSection(wish, Boolean(blocked) && !blocked.measure);
  const readout = readoutSection();
  const ledger = ledgerBar(palette, tools.get("ledger"));
  const panel = element("div", { className: "nbquant-panel", "data-ticks": "0" });

  const nodes = new Map();
  const boxes = new Map();
  const canvases = new Map();
  for (const name of names) {
    const settings = { className: "nbquant-figure", role: "figure", "data-figure": name, "data-draws": "0" };
    const node = element("div", settings);
    const frame = element("div", { className: "nbquant-frame" }, node);
    if (OVERLAID.includes(kinds[name])) {
      canvases.set(name, element("canvas", { className: "nbquant-overlay" }));
      frame.append(canvases.get(name));
    }
    const { row, holder } = tools.get(name);
    nodes.set(name, node);
    boxes.set(name, element("div", { className: "nbquant-box", "data-box": name, "data-kind": kinds[name] }, frame, row, holder));
    grid.append(boxes.get(name));
  }
  const heads = new Map(); // of figures whose titles are text of the page
  const parts = { heads, panel, drive, readout, ledger, grid, said, probe, names, kinds, boxes, tools };
  const leave = arrange(parts);
  el.append(panel);

  let colours = {};
  let frame = 0;
  let ticking = 0;
  let resting = 0;
  let waiting = 0;
  let drawing = false;
  let disposed = false;
  const stale = new Set(names);
  const resized = new Set();
  const listening = new Set();

  // The live point.

  let table = decoded(model.get("table") ?? {});
  let now = decoded(model.get("now") ?? {});
  let preview = null; // of a drive that the kernel has not answered
  let shownBars = null; // of the histogram, to morph from
  let inHand = null; // {index, value} of a centre that the kernel has not moved yet
  let inFlight = null; // the move that it has been asked for
  let shown = null;
  let wished = null; // not sent yet
  let moving = null; // likewise
  let telling = false;

  const hasTable = () => table.value?.length > 0;
  const serialOf = (name) => model.get(name)?.serial ?? 0;
  // One count for all that is asked of the kernel, so that `now.serial` tells which of it has been handled.
  const nextSerial = () => Math.max(serialOf("drive"), serialOf("moved"), now.serial ?? 0) + 1;

  function wish(driver, value) {
    wished = { driver, value };
    inHand = inFlight = moving = null;
    tickSoon();
  }

  function look(asked) {
    const i = hasTable() && asked?.driver ? findPoint(table, asked.driver, asked.value) : -1;
    preview = i < 0 ? null : { ...pointAt(table, i, asked), note: now.by_hand ? "" : now.note };
  }

  /** A ratio within the curve's. */
  function within(ratio) {
    const [low, high] = hasTable() ? boundsOf(table, "ratio") : [ratio, ratio];
    return Math.min(Math.max(Number(ratio.toPrecision(4)), low), high);
  }

  function settle() {
    if (serialOf("drive") > (now.serial ?? 0)) look(model.get("drive"));
    else preview = null;
    if (!clusters?.isDragging && !moving && (!inFlight || isOverdue())) inHand = inFlight = null;
  }

  const isOverdue = () => inFlight && performance.now() - inFlight.at > PATIENCE;

  // A centre's number holds until clusters fall away: so one move at a time, and the next by the number it then has.
  function land() {
    if (!inFlight || (now.serial ?? 0) < inFlight.serial) return;
    const { index, value } = inFlight;
    inFlight = null;
    if (value === undefined || !now.centre?.length) return;
    const number = nearestCentre(now.centre, value);
    clusters.renumber(index, number);
    for (const each of [inHand, moving]) if (each?.index === index) each.index = number;
  }

  function tick() {
    ticking = 0;
    if (disposed) return;
    const started = performance.now();
    let isChange = false;
    if (wished) {
      const asked = { ...wished, serial: nextSerial() };
      wished = null;
      look(asked);
      isChange = true;
      set("drive", asked);
    }
    if (moving) inHand = moving.index === undefined ? null : { ...moving };
    if (moving && (!inFlight || !inHand || isOverdue())) {
      const asked = { ...moving, serial: nextSerial() };
      inFlight = { ...asked, at: started };
      moving = null;
      isChange = true;
      set("moved", asked);
    }
    clearTimeout(waiting);
    if (moving) waiting = setTimeout(tickSoon, PATIENCE);
    if (isChange) {
      model.save_changes();
      panel.dataset.ticks = String(Number(panel.dataset.ticks) + 1);
    }
    show();
    panel.dataset.tickMilliseconds = (performance.now() - started).toFixed(2);
  }

  /** Set a trait of ours, which is no news. */
  function set(name, value) {
    telling = true;
    model.set(name, value);
    telling = false;
  }

  function show() {
    const base = preview ?? (now.ratio > 0 ? now : null);
    shown = base && inHand && inHand.index < base.centre.length ? movedPoint(base, inHand.index, inHand.value) : base;
    if (!shown) return overlay();
    drive.show(shown);
    readout.show(shown);
    ledger.show(shown.ledger ?? {});
    overlay();
    panel.dataset.shown = preview ? "preview" : "now";
    panel.dataset.shownSerial = String(shown.serial ?? 0);
    panel.dataset.shownExact = String(Boolean(shown.exact));
    clearTimeout(resting);
    resting = setTimeout(rest, REST);
  }

  function rest() {
    tools.get("ledger").refresh();
    if (shown && !canvases.get(clustered)?.matches(":focus")) put(said, "textContent", inWords(shown));
  }

  function tickSoon() {
    if (!ticking && !disposed) ticking = requestAnimationFrame(tick);
  }

  const live = {
    point: () => shown,
    colours: () => overlayColours,
    factor: () => SIZES[model.get("size")] ?? 1,
    font: (size) => font(size, live.factor()),
    family: () => family,
    ghosts: () => ghosts,
    brushed: () => brushed,
    region: () => model.get("region"),
    say: (text) => put(said, "textContent", text),
    move(index, value) {
      moving = { index, value: between(shown.centre, index, value) };
      tickSoon();
    },
    release() {
      moving = {};
      tickSoon();
    },
  };
  let overlayColours = {};
  let family = "sans-serif";
  let ghosts = decoded(model.get("ghosts") ?? []);
  let brushed = decoded(model.get("brushed") ?? {});
  const clusters = clustered
    ? clusterOverlay(nodes.get(clustered), canvases.get(clustered), tools.get(clustered).told, palette, live)
    : null;

  const overlays = {
    clusters: () => clusters.draw(),
    curves: (name, node, canvas) => drawChosen(node, canvas, palette, live),
    map: (name, node, canvas) => drawRegion(name, node, canvas, live),
  };

  /** Draw what lies over a figure, by default over those that move with the point. */
  function overlay(which = named("clusters", "curves")) {
    for (const name of which) {
      if (canvases.has(name) && nodes.get(name).clientWidth) overlays[kinds[name]](name, nodes.get(name), canvases.get(name));
    }
  }

  const region = regionBrush(model, maps, { tools, canvases, boxes, nodes }, () => overlay(maps));

  // The figures.

  // Plotly throws where its margins leave no room for axes, as in a panel that is just being opened.
  const visible = (node) => node.clientWidth >= 110 && node.clientHeight >= 90;

  function listen(name, node) {
    listening.add(name);
    const hasDragged =
      kinds[name] === "curves" ? steerTarget(node, (ratio) => wish("ratio", within(ratio))) : () => false;
    node.on("plotly_click", (event) => {
      if (hasDragged()) return;
      model.set("clicked", clickedPoint(name, event, serialOf("clicked") + 1));
      model.save_changes();
    });
    if (!canvases.has(name)) return;
    for (const event of ["plotly_afterplot", "plotly_relayout", "plotly_relayouting"]) {
      node.on(event, () => overlay([name]));
    }
    if (!maps.includes(name)) return;
    node.on("plotly_selected", (event) => {
      region.take(name, event);
      if (node.layout?.selections?.length) Plotly.relayout(node, { selections: [] });
    });
    node.on("plotly_deselect", region.clear);
  }

  async function draw(name) {
    const node = nodes.get(name);
    const state = model.get(name);
    if (!state?.data) return;
    Plotly ??= await loadPlotly();
    if (disposed) return;
    const isMap = maps.includes(name);
    const figure = dressed({ data: state.data, layout: { font: { size: 12 }, ...state.layout } }, colours);
    const whole = scaled(figure, live.factor());
    const head = heads.get(name);
    const layout = head ? head.take(whole.layout, whole.data, node, family) : whole.layout;
    const data = head ? head.traces(whole.data, node, layout, family) : whole.data;
    layout.width = node.clientWidth;
    layout.height = node.clientHeight;
    layout.font = { ...layout.font, family };
    keepLegends(layout);
    if (kinds[name] === "curves") layout.dragmode = false; // a drag moves the target
    if (isMap) {
      layout.dragmode = "select";
      layout.newselection = { line: { color: overlayColours.foreground, width: 2, dash: "solid" } };
    }
    const started = performance.now();
    const bars = kinds[name] === "clusters" ? barsOf(data, layout) : null;
    const before = shownBars;
    shownBars = bars ?? shownBars;
    const modeBarButtons = [isMap ? ["select2d", ...BUTTONS] : BUTTONS];
    await Plotly.react(node, data, layout, { ...CONFIG, modeBarButtons });
    if (disposed) return;
    if (bars && canMorph(before, bars, layout)) await morph(Plotly, node, before, bars);
    if (disposed) return;
    if (!listening.has(name)) {
      listen(name, node);
      overlay([name]);
    }
    node.dataset.milliseconds = (performance.now() - started).toFixed(1);
    node.dataset.draws = String(Number(node.dataset.draws) + 1);
    node.dataset.revision = String(state.revision);
  }

  // The first to be drawn. One without a size (in a hidden tab, or not yet attached) waits for the ResizeObserver.
  const next = () => names.find((name) => (stale.has(name) || resized.has(name)) && visible(nodes.get(name)));

  // A drag sends states faster than they can be drawn: each frame draws the newest of each stale figure, once.
  async function drawStale() {
    frame = 0;
    if (drawing || disposed) return;
    drawing = true;
    try {
      for (let name = next(); name && !disposed; name = next()) {
        const node = nodes.get(name);
        const isFirst = node.dataset.revision === undefined;
        if (stale.delete(name) || (heads.has(name) && resized.has(name))) {
          resized.delete(name);
          // The first pictures of all figures together block the page too long for other widgets to be made in time.
          if (isFirst) await new Promise((done) => setTimeout(done));
          if (disposed) break;
          try {
            await draw(name);
            delete node.dataset.error;
          } catch (error) {
            // The last good picture stays, and the other figures are drawn all the same.
            node.dataset.error = String(error);
            console.error(`nbquant: cannot draw ${name}`, error);
          }
        } else if (resized.delete(name) && !isFirst) {
          await Plotly.relayout(node, { width: node.clientWidth, height: node.clientHeight });
        }
      }
    } finally {
      drawing = false;
    }
    if (next()) schedule();
  }

  // A late figure takes no room before it has something to show.
  function reveal() {
    for (const name of model.get("late")) boxes.get(name).hidden = !model.get(name)?.data;
  }

  function schedule() {
    if (!frame && !disposed) frame = requestAnimationFrame(drawStale);
  }

  function restyle() {
    if (disposed || !panel.isConnected) return;
    const roles = model.get("_roles");
    const fresh = themeColours(probe, { ...roles, _length: "length" });
    if (JSON.stringify(fresh) !== JSON.stringify(colours)) {
      colours = fresh;
      overlayColours = { length: fresh._length };
      for (const [neutral, role] of Object.entries(roles)) overlayColours[role] = fresh[neutral];
      family = getComputedStyle(panel).fontFamily;
      names.forEach((name) => stale.add(name));
      overlay([...canvases.keys()]);
    }
    // Between two themes the page has no layout for a moment, too short for the ResizeObserver to tell: whatever found
    // its figure without a size then is drawn now.
    if (stale.size) schedule();
  }

  function describe() {
    const descriptions = model.get("descriptions");
    for (const [name, node] of nodes) node.setAttribute("aria-label", descriptions[name] ?? name.replaceAll("_", " "));
  }

  function resize() {
    panel.dataset.size = model.get("size") ?? "standard";
    names.forEach((name) => stale.add(name));
    schedule();
  }

  function bound() {
    if (hasTable()) drive.bound(table);
    else drive.hide();
    // What an answered drive asked of one method says nothing about another.
    settle();
    tickSoon();
  }

  const changes = {
    descriptions: describe,
    size: resize,
    region: region.show,
    table: () => {
      table = decoded(model.get("table") ?? {});
      bound();
    },
    now: () => {
      const answer = decoded(model.get("now") ?? {});
      if ((answer.serial ?? 0) < serialOf("drive") && answer.ratio > 0) return; // older than what is asked by now
      now = answer;
      land();
      settle();
      tickSoon();
    },
    drive: () => {
      if (telling) return; // else another view of this panel drives
      settle();
      tickSoon();
    },
    facts: () => readout.facts(model.get("facts") ?? []),
    ghosts: () => {
      ghosts = decoded(model.get("ghosts") ?? []);
      overlay(named("clusters"));
    },
    brushed: () => {
      brushed = decoded(model.get("brushed") ?? {});
      overlay(named("clusters"));
    },
  };
  for (const name of names) {
    changes[name] = () => {
      stale.add(name);
      tools.get(name).refresh();
      reveal();
      schedule();
    };
  }

  function hear(message, buffers) {
    if (message.kind === "table") tools.get(message.figure)?.show(message);
    else if (message.kind === "file" && takes(message)) download(message, buffers);
    else if (message.kind === "copy" && takes(message)) copyText(message.text, panel, live.say);
  }

  const listeners = Object.entries(changes).map(([name, listener]) => [`change:${name}`, listener]);
  listeners.push(["msg:custom", hear]);
  listeners.forEach(([event, listener]) => model.on(event, listener));

  const sizes = new ResizeObserver((entries) => {
    restyle(); // the first time with a size is the first time that the theme's variables can be read
    for (const { target } of entries) {
      const layout = target._fullLayout;
      if (!layout || layout.width !== target.clientWidth || layout.height !== target.clientHeight) {
        resized.add(target.dataset.figure);
      }
    }
    schedule();
  });
  nodes.forEach((node) => sizes.observe(node));

  const stopWatching = watchTheme(restyle);

  // Notebook 7 takes keys for its own unless the very element with the focus says this; so for all of our controls.
  const keepKeys = (event) => event.target.setAttribute?.("data-lm-suppress-shortcuts", "true");
  let root = null;
  const found = requestAnimationFrame(() => {
    root = panel.closest(".nbquant-explorer");
    root?.addEventListener("focusin", keepKeys);
  });

  loadPlotly().catch(() => null); // meanwhile there will be something to draw; what fails is told then
  describe();
  reveal();
  resize();
  readout.facts(model.get("facts") ?? []);
  bound();
  region.show();
  restyle();
  schedule();

  return () => {
    disposed = true;
    cancelAnimationFrame(frame);
    cancelAnimationFrame(ticking);
    clearTimeout(resting);
    clearTimeout(waiting);
    sizes.disconnect();
    stopWatching();
    listeners.forEach(([event, listener]) => model.off(event, listener));
    cancelAnimationFrame(found);
    root?.removeEventListener("focusin", keepKeys);
    tools.forEach((tool) => tool.dispose());
    nodes.forEach((node) => Plotly?.purge(node));
    leave?.();
    panel.remove();
  };
}
