// How plotly draws the figures of a panel, and what it tells of a click.

const CONFIG = {
  displaylogo: false,
  responsive: false, // our ResizeObserver sees the panel, not only the window
  doubleClick: "reset",
  typesetMath: false, // else plotly meets the notebook's MathJax
  showSendToCloud: false,
  plotlyServerURL: "",
};
// Named one by one: a later plotly.js may bring buttons that send the chart somewhere, as 4.1 does.
const BUTTONS = ["zoom2d", "pan2d", "resetScale2d"];
const OVERLAID = ["clusters", "curves", "map"]; // kinds of figures

function clickedPoint(name, event, serial) {
  const { curveNumber, pointNumber, x, y } = event.points[0];
  const plain = (v) => (typeof v === "number" && !Number.isFinite(v) ? null : v);
  return { figure: name, curve: curveNumber, point: pointNumber, x: plain(x), y: plain(y), serial };
}

/** Keep legends in the figure: a share of the plot's width left of it is more than the margin where the plot is wide. */
function keepLegends(layout) {
  const { width, margin } = layout;
  const least = (8 - (margin?.l ?? 80)) / (width - (margin?.l ?? 80) - (margin?.r ?? 80));
  for (const [key, legend] of Object.entries(layout)) {
    if (/^legend\d*$/.test(key) && legend.x < least) legend.x = least;
  }
}
