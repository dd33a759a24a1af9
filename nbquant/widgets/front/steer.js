// A drag over the rate-distortion curves moves the target: the point runs along its curve.

const ENDS = ["pointerup", "pointercancel"];
const STARTS = 3; // px that a drag takes to begin; less is a click, which chooses a curve

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

  function onMove(event) {
    if (!(event.buttons & 1)) return onEnd();
    const x = event.clientX - node.getBoundingClientRect().left;
    if (!isDrag && Math.abs(x - from.x) < STARTS) return;
    isDrag = true;
    const { across } = from;
    ask(valueAt(across, Math.min(Math.max(x, across._offset), across._offset + across._length)));
  }

  function onEnd() {
    from = null;
    window.removeEventListener("pointermove", onMove, true);
    for (const type of ENDS) window.removeEventListener(type, onEnd, true);
  }

  // Of the window, as plotly covers the page while a button is down.
  node.addEventListener("pointerdown", (event) => {
    from = event.button === 0 ? place(event) : null;
    isDrag = false;
    if (!from) return;
    window.addEventListener("pointermove", onMove, true);
    for (const type of ENDS) window.addEventListener(type, onEnd, true);
  });

  /** Whether the button that was let go of last had dragged: plotly takes that for a click, where it was pressed. */
  return () => isDrag;
}
