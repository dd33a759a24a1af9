// Numbers as people read them.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const count = (value) => grouped.format(value);

/** A number with so many significant digits, as 1.2e-5 where that is shorter. */
function significant(value, digits = 3) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(digits - 1).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

const QUANTITIES = {
  ratio: {
    label: "Compression ratio",
    unit: "×",
    text: (v) => v.toFixed(v < 99.995 ? 2 : 1),
    said: (v) => `${v.toFixed(2)} times smaller`,
  },
  rate: { label: "Rate", unit: "bit/weight", text: (v) => v.toFixed(3), said: (v) => `${v.toFixed(3)} bit per weight` },
  levels: { label: "Levels", unit: "", text: (v) => v.toFixed(0), said: (v) => `${v.toFixed(0)} levels` },
  accuracy_loss: {
    label: "Accuracy lost",
    unit: "points",
    text: (v) => significant(v),
    said: (v) => `at most ${significant(v)} percentage points of accuracy lost`,
  },
  step: { label: "Step Δ", unit: "weight", text: (v) => significant(v), said: (v) => `step ${significant(v)}` },
  lmbda: {
    label: "λ",
    unit: "loss/bit",
    text: (v) => significant(v),
    said: (v) => `lambda ${significant(v)} loss per bit`,
  },
};
