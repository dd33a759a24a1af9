// The chosen point and the target over the rate-distortion curves.

/** A regular polygon with a corner on top, its corners `far` times as far out as a circle. */
function polygon(corners, far) {
  return (path, x, y, r) => {
    for (let i = 0; i < corners; i++) {
      const angle = (2 * Math.PI * i) / corners - Math.PI / 2;
      path[i ? "lineTo" : "moveTo"](x + far * r * Math.cos(angle), y + far * r * Math.sin(angle));
    }
    path.closePath();
  };
}

// Symbols of the methods, as plotly calls them.
const SHAPES = {
  circle: (path, x, y, r) => path.arc(x, y, r, 0, 2 * Math.PI),
  square: (path, x, y, r) => path.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r),
  diamond: polygon(4, 1.3),
  cross: (path, x, y, r) => {
    path.rect(x - 1.2 * r, y - 0.4 * r, 2.4 * r, 0.8 * r);
    path.rect(x - 0.4 * r, y - 1.2 * r, 0.8 * r, 2.4 * r);
  },
  star: (path, x, y, r) => {
    for (let i = 0; i < 10; i++) {
      const [angle, far] = [(Math.PI * (i - 2.5)) / 5, i % 2 ? 0.6 * r : 1.5 * r];
      path[i ? "lineTo" : "moveTo"](x + far * Math.cos(angle), y + far * Math.sin(angle));
    }
    path.closePath();
  },
  "triangle-up": polygon(3, 1.3),
  hexagon: polygon(6, 1.1),
};

/** The compression ratio that a target asks for; null where it asks for something else. */
function targetRatio(point) {
  if (!(point.target > 0)) return null;
  if (point.driver === "ratio") return point.target;
  return point.driver === "rate" ? (point.ratio * point.rate) / point.target : null;
}

/** The value of a point on the figure's vertical axis; NaN where it is not known: it was not measured. */
function heightOf(point, node) {
  const quantity = node.layout?.meta?.quantity;
  return quantity ? (point.measured?.[quantity] ?? NaN) : point.loss;
}

function drawChosen(node, canvas, palette, live) {
  const place = surface(canvas, node);
  const point = live.point();
  if (!place || !(point?.ratio > 0)) return;
  const { context, x, y, left, right, top, bottom } = place;
  const colours = live.colours();
  const factor = live.factor();
  const target = targetRatio(point);
  clipped(place, () => {
    if (target) {
      const across = pixelOf(x, target);
      context.strokeStyle = colours.foreground;
      context.lineWidth = 1.5 * factor;
      context.setLineDash([2 * factor, 3 * factor]);
      context.beginPath();
      context.moveTo(across, bottom);
      context.lineTo(across, top);
      context.stroke();
      context.setLineDash([]);
      const isRight = across > (left + right) / 2;
      context.font = `${live.font(12)}px ${live.family()}`;
      context.textBaseline = "middle";
      context.textAlign = isRight ? "right" : "left";
      const text = `target ${point.driver === "rate" ? `${significant(point.target)} bit/weight` : `${significant(target)}×`}`;
      const style = { colour: colours.foreground, background: colours.background, size: live.font(12) };
      plate(context, text, across + (isRight ? -6 : 6) * factor, node.layout?.meta ? top + 10 * factor : bottom - 10 * factor, style);
    }
    const value = heightOf(point, node);
    if (Number.isNaN(value)) return;
    // No loss at all lies below every logarithmic axis: at its foot, then.
    const at = value > 0 || y.type !== "log" ? pixelOf(y, value, true) : bottom - 2;
    const down = Math.max(at, top + 2); // more than the axis shows
    const { colour, symbol } = palette.methods[point.method] ?? { colour: colours.foreground, symbol: "circle" };
    context.fillStyle = colour;
    context.strokeStyle = colours.foreground;
    context.lineWidth = 2 * factor;
    context.beginPath();
    SHAPES[symbol](context, pixelOf(x, point.ratio), down, 6.5 * factor);
    context.fill();
    context.stroke();
  });
}
