// A slider that plays from its least value to its greatest; by steps for those who ask for less motion.

const PLAYED = new Set(["lmbda"]); // from k-means, λ = 0, to ECSQ: cells merge as λ grows
const LASTS = 8000; // ms from one end to the other
const FRAME = 60; // ms
const PRESSES = 40; // steps from one end to the other, where each is pressed
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** A share of the way between two values, even in their logarithms. */
const along = ([low, high], share) => low * (high / low) ** Math.min(Math.max(share, 0), 1);
const shareOf = ([low, high], value) => Math.log(value / low) / Math.log(high / low);

/** A button that plays; `bounds()`, `value()` and `drives()` tell where the slider is, `wish(value)` moves it. */
function playButton(label, bounds, value, drives, wish) {
  const button = element("button", { type: "button", className: "nbquant-play" });
  let timer = 0;
  let paused = -1; // share at which it was stopped here

  function name() {
    const text = timer ? "❚❚" : still() ? "▸" : "▶";
    const said = timer ? `Stop ${label}` : still() ? `Move ${label} a step on` : `Play ${label} from its least to its greatest`;
    put(button, "textContent", text);
    put(button, "title", said);
    if (button.getAttribute("aria-label") !== said) button.setAttribute("aria-label", said);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    paused = -1;
    name();
  }

  const go = (share) => wish(along(bounds(), share));

  function advance(begun, from) {
    if (still() || !drives()) return stop(); // another quantity was asked for
    const share = from + (performance.now() - begun) / LASTS;
    go(share);
    if (share >= 1) stop();
  }

  button.addEventListener("click", () => {
    if (timer) {
      stop();
      paused = shareOf(bounds(), value());
      return;
    }
    const at = shareOf(bounds(), value());
    if (still()) return go(at > 0.999 ? 0 : at + 1 / PRESSES);
    const [begun, from] = [performance.now(), paused > 0 && paused < 0.98 ? paused : 0];
    go(from);
    timer = setInterval(() => advance(begun, from), FRAME);
    name();
  });
  name();
  return { button, stop };
}
