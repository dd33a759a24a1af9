// A canvas over a plotly figure, in the figure's own coordinates.

/** Where a value lies on a plotly axis [px]; `isDown` for a vertical one. */
function pixelOf(axis, value, isDown = false) {
  const [a, b] = axis.range;
  const share = ((axis.type === "log" ? Math.log10(value) : value) - a) / (b - a);
  return axis._offset + (isDown ? 1 - share : share) * axis._length;
}

/** The value at a place on a horizontal axis. */
function valueAt(axis, pixel) {
  const [a, b] = axis.range;
  const at = a + ((pixel - axis._offset) / axis._length) * (b - a);
  return axis.type === "log" ? 10 ** at : at;
}

/** Axes of a figure that has been drawn, else null. */
function axesOf(node) {
  const layout = node._fullLayout;
  return layout?.xaxis?._length > 0 && layout.yaxis?._length > 0 ? { x: layout.xaxis, y: layout.yaxis } : null;
}

/** Clear a canvas, at the figure's size and the screen's density; null where the figure has no axes yet. */
function surface(canvas, node) {
  const axes = axesOf(node);
  const [width, height] = [node.clientWidth, node.clientHeight];
  const density = window.devicePixelRatio || 1;
  const [across, down] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  if (!axes || !width) return null;
  const { x, y } = axes;
  return { context, x, y, left: x._offset, right: x._offset + x._length, top: y._offset, bottom: y._offset + y._length };
}

function clipped({ context, left, right, top, bottom }, paint) {
  context.save();
  context.beginPath();
  context.rect(left, top, right - left, bottom - top);
  context.clip();
  paint(context);
  context.restore();
}

/** Text on a plate of the background, so that bars behind do not take its contrast. */
function plate(context, text, x, y, { colour, background, size }) {
  const width = context.measureText(text).width;
  const start = context.textAlign === "right" ? x - width : x;
  context.globalAlpha = 0.8;
  context.fillStyle = background;
  context.fillRect(start - 3, y - size * 0.7, width + 6, size * 1.4);
  context.globalAlpha = 1;
  context.fillStyle = colour;
  context.fillText(text, x, y);
}
