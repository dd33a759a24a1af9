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
