// A drag over the rate-distortion curves moves the target: the point runs along its curve.

const STARTS = 3; // px that a drag takes to begin; less is a click, which chooses a curve

/** The value at a place on a horizontal axis. */
function ratioAt(axis, pixel) {
  const [a, b] = axis.range;
  const at = a + ((pixel - axis._offset) / axis._length) * (b - a);
  return axis.type === "log" ? 10 ** at : at;
}

/** Watch a figure of curves over compression ratio; `ask(ratio)` is told where the target is dragged to. */
function steerTarget(node, ask) {
  let from = null;
  let isDrag = false;

  function place(event) {
    const axes = axesOf(node);
    if (!axes || node._fullLayout.dragmode) return null; // plotly zooms or pans
    const box = node.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const { x: across, y: down } = axes;
    const inside = y >= down._offset && y <= down._offset + down._length;
    return inside && x >= across._offset && x <= across._offset + across._length ? { x, across } : null;
  }

  node.addEventListener("pointerdown", (event) => {
    if (event.button === 0) from = place(event);
    isDrag = false;
  });
  node.addEventListener("pointermove", (event) => {
    if (!from || !(event.buttons & 1)) {
      from = null;
      return;
    }
    const x = event.clientX - node.getBoundingClientRect().left;
    if (!isDrag && Math.abs(x - from.x) < STARTS) return;
    if (!isDrag) node.setPointerCapture(event.pointerId);
    isDrag = true;
    const { across } = from;
    ask(ratioAt(across, Math.min(Math.max(x, across._offset), across._offset + across._length)));
  });
  for (const type of ["pointerup", "pointercancel"]) node.addEventListener(type, () => (from = null));
}
