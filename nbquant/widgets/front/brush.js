// The region selected on a map of weights, shown on all of them: a place means the same in each.

const isRegion = (region) => typeof region?.x0 === "number";

function drawRegion(name, node, canvas, live) {
  const place = surface(canvas, node);
  const region = live.region();
  if (!place || !isRegion(region)) return;
  const { x, y } = place;
  const factor = live.factor();
  const [left, right] = [pixelOf(x, region.x0), pixelOf(x, region.x1)].sort((a, b) => a - b);
  const [top, bottom] = [pixelOf(y, region.y0, true), pixelOf(y, region.y1, true)].sort((a, b) => a - b);
  clipped(place, (context) => {
    // Dark in light, to be seen on every colour of the map.
    for (const [colour, width] of [
      ["#000", 4],
      ["#fff", 2],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = width * factor;
      context.setLineDash(name === region.figure || width === 4 ? [] : [6 * factor, 4 * factor]);
      context.strokeRect(left, top, right - left, bottom - top);
    }
  });
}

/** What plotly's box select on a figure says, as `region` has it; null where it selected nothing. */
function selectedRegion(name, event) {
  const { x, y } = event?.range ?? {};
  if (!x || !y || x[0] === x[1] || y[0] === y[1]) return null;
  const [x0, x1] = [...x].sort((a, b) => a - b);
  const [y0, y1] = [...y].sort((a, b) => a - b);
  return { figure: name, x0, x1, y0, y1 };
}

/** Brushing on maps: the trait `region` follows what is selected there; `redraw()` draws it on all of them. */
function regionBrush(model, maps, { tools, canvases, boxes, nodes }, redraw) {
  const clearers = [];

  function select(region) {
    model.set("region", { ...(region ?? {}), serial: (model.get("region")?.serial ?? 0) + 1 });
    model.save_changes();
  }

  const clear = () => isRegion(model.get("region")) && select(null);

  function unselect(event) {
    if (event.key !== "Escape" || !isRegion(model.get("region"))) return;
    event.stopPropagation();
    select(null);
  }

  for (const name of maps) {
    const button = element("button", { type: "button", textContent: "Clear region", hidden: true });
    button.addEventListener("click", () => select(null));
    tools.get(name).told.after(button);
    clearers.push(button);
    canvases.get(name).tabIndex = -1;
    boxes.get(name).addEventListener("keydown", unselect);
    nodes.get(name).addEventListener("pointerdown", () => canvases.get(name).focus({ preventScroll: true }));
  }
  return {
    clear,
    /** Take up what plotly selected on a figure. */
    take(name, event) {
      const region = selectedRegion(name, event);
      if (region) select(region);
    },
    show() {
      redraw();
      for (const button of clearers) button.hidden = !isRegion(model.get("region"));
    },
  };
}
