// Bars that grow from one quantity's heights to another's; not for those who ask for less motion.

const MORPHS = 360; // ms

/** Bars of a figure, and the quantity that they show; null without bars. */
function barsOf(data, layout) {
  const bars = data?.find(({ type }) => type === "bar");
  const plain = (list) => Float64Array.from(ArrayBuffer.isView(list) || Array.isArray(list) ? list : decoded(list ?? []));
  const [x, height] = [plain(bars?.x), plain(bars?.y)];
  return x.length && x.length === height.length ? { x, height, of: layout.yaxis?.uirevision } : null;
}

/** Whether bars are of another quantity, on a linear axis, so that they can morph. */
const canMorph = (before, now, layout) => Boolean(before && now) && !still() && before.of !== now.of && layout.yaxis.type !== "log";

/** Heights of earlier bars where the new ones stand, on the new scale; 0 beyond the earlier ones. */
function carriedOver(before, now) {
  const most = (list) => list.reduce((a, b) => Math.max(a, b), 0) || 1;
  const scale = most(now.height) / most(before.height);
  const [first, last] = [before.x[0], before.x.at(-1)];
  const reach = (last - first) / before.x.length;
  return now.x.map((at) => {
    if (at < first - reach || at > last + reach) return 0;
    return scale * before.height[nearestCentre(before.x, at)];
  });
}

/** Let bars that have just been drawn grow from earlier ones. */
async function morph(Plotly, node, before, now) {
  const place = node.data.findIndex(({ type }) => type === "bar");
  const from = carriedOver(before, now);
  const begun = performance.now();
  for (let share = 0; share < 1; ) {
    share = Math.min((performance.now() - begun) / MORPHS, 1);
    const eased = share * share * (3 - 2 * share);
    await Plotly.restyle(node, { y: [now.height.map((height, i) => (1 - eased) * from[i] + eased * height)] }, [place]);
    if (share < 1) await new Promise((done) => requestAnimationFrame(done));
  }
}
