// What the sliders show before the kernel answers: a look-up in the table of the method's curve.

/** What is asked of each quantity: `meets` is null where the nearest is taken. Mirrors LiveTable.find (analysis/live.py). */
const MEETS = {
  ratio: (reached, asked) => reached >= asked,
  rate: (reached, asked) => reached <= asked,
  levels: (reached, asked) => reached <= asked,
};

/** The column of the table that a driver asks for. */
const column = (table, driver) => (driver === table.parameter && !MEETS[driver] ? table.value : table[driver]);

/** Index of the point of least loss that meets the target, or of the nearest parameter; -1 if there is none. */
function findPoint(table, driver, value) {
  const reached = column(table, driver);
  if (reached === undefined) return -1;
  const meets = MEETS[driver];
  const { loss, rate } = table;
  let best = -1;
  let nearest = Infinity;
  for (let i = 0; i < reached.length; i++) {
    if (meets) {
      if (!meets(reached[i], value)) continue;
      if (best < 0 || loss[i] < loss[best] || (loss[i] === loss[best] && rate[i] < rate[best])) best = i;
    } else {
      const away = Math.abs(Math.log(reached[i] / value));
      if (away < nearest) [best, nearest] = [i, away];
    }
  }
  return best;
}

/** A point of the table as `now` has one. */
function pointAt(table, i, drive) {
  const [from, to] = [table.start[i], table.start[i + 1]];
  const ledger = {};
  for (const [part, bits] of Object.entries(table.ledger)) ledger[part] = bits[i];
  return {
    driver: drive.driver,
    target: drive.value,
    serial: drive.serial,
    exact: false,
    by_hand: false,
    note: "",
    method: table.method,
    weighted: table.weighted,
    parameter: table.parameter,
    value: table.value[i],
    ratio: table.ratio[i],
    rate: table.rate[i],
    loss: table.loss[i],
    levels: table.levels[i],
    ledger,
    centre: table.centre.slice(from, to),
    count: table.count.slice(from, to),
    length: table.length.slice(from, to),
    threshold: table.threshold && table.threshold.slice(from, to - 1),
    mean_h: table.mean_h,
    lmbda: table.parameter === "lmbda" ? table.value[i] : 0,
    codeword: null,
  };
}

/** Least and greatest positive value of what a driver can ask for. */
function boundsOf(table, driver) {
  let [low, high] = [Infinity, 0];
  for (const value of column(table, driver)) {
    if (value > 0 && value < low) low = value;
    if (value > high && value < Infinity) high = value;
  }
  return [low, high];
}

/** A value between a centre's neighbours: past them it would be another centre, on them none. */
function between(centre, index, value) {
  const [below, above] = [centre[index - 1] ?? -Infinity, centre[index + 1] ?? Infinity];
  const room = Number.isFinite(above - below) ? 0.001 * (above - below) : 1e-6 * Math.abs(centre[index]);
  return Math.min(Math.max(value, below + room), above - room);
}

/** Index of the centre nearest to a value. */
function nearestCentre(centre, value) {
  let best = 0;
  for (let j = 1; j < centre.length; j++) {
    if (Math.abs(centre[j] - value) < Math.abs(centre[best] - value)) best = j;
  }
  return best;
}

/** A point with one centre elsewhere, and every weight in the cell of the nearest. */
function movedPoint(point, index, value) {
  const centre = Float64Array.from(point.centre);
  centre[index] = value;
  const threshold = point.threshold && centre.subarray(1).map((c, i) => (c + centre[i]) / 2);
  return { ...point, centre, threshold, by_hand: true, exact: false };
}

/**
 * Cells as intervals: `index` of the centre of each, `boundary` between them; null where there are none.
 *
 * Without thresholds, as in ECSQ, a weight of mean sensitivity goes to argmin_j ½ h̄ (w − c_j)² + λ ℓ_j: the lower
 * envelope of parabolas of one width, each of which holds one interval at most.
 */
function cellsOf(point) {
  const { centre, threshold, length } = point;
  if (threshold) return { index: Int32Array.from(centre, (_, j) => j), boundary: threshold, exact: true };
  if (!(point.mean_h > 0) || !centre.length) return null;
  const price = point.lmbda / point.mean_h;
  const [index, boundary] = [[], []];
  for (let j = 0; j < centre.length; j++) {
    let from = -Infinity;
    let beaten = false;
    while (index.length) {
      const i = index.at(-1);
      const apart = centre[j] - centre[i];
      const dearer = price * (length[j] - length[i]);
      if (apart > 0) from = (centre[i] + centre[j]) / 2 + dearer / apart;
      else from = dearer < 0 ? -Infinity : Infinity;
      beaten = from === Infinity;
      if (beaten || from > (boundary.at(-1) ?? -Infinity)) break;
      index.pop();
      boundary.pop();
      from = -Infinity;
    }
    if (beaten) continue;
    if (index.length) boundary.push(from);
    index.push(j);
  }
  return { index, boundary, exact: false };
}

/** Number of the cell that a weight lies in. */
function cellOf(cells, weight) {
  let [low, high] = [0, cells.boundary.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (cells.boundary[middle] < weight) low = middle + 1;
    else high = middle;
  }
  return low;
}
