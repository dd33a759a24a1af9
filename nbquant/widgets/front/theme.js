// Colours of the page's theme, and the figures' sizes.

const SIZES = { standard: 1, compact: 11 / 12, projection: 1.5 };
const LEAST_FONT = 11;
const PIXELS = new Set(["ticklen", "standoff", "thickness", "xpad", "ypad", "borderpad", "xshift", "yshift"]);

/** Resolve the theme's colours to rgba(): plotly parses neither var() nor the newer CSS colour functions. */
function themeColours(probe, roles) {
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colours = {};
  for (const [neutral, role] of Object.entries(roles)) {
    probe.style.color = `var(--nbquant-${role})`;
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = getComputedStyle(probe).color;
    pixel.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
    colours[neutral] = `rgba(${r}, ${g}, ${b}, ${a / 255})`;
  }
  return colours;
}

/** Copy a figure, with neutral colours replaced and buffers as plotly takes them. Plotly writes into what it draws. */
function dressed(value, colours) {
  if (typeof value === "string") return colours[value] ?? value;
  if (value === null || typeof value !== "object") return value;
  if (value instanceof DataView) return copied(value);
  if (Array.isArray(value)) return value.map((item) => dressed(item, colours));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, dressed(item, colours)]));
}

const font = (size, factor) => Math.max(Math.min(size, LEAST_FONT), size * factor);

/** Copy a dressed figure with whatever is measured in pixels made larger or smaller. */
function scaled(value, factor, key = "", parent = "") {
  if (factor === 1) return value;
  if (typeof value === "number") {
    if (key === "size" && /font$/i.test(parent)) return font(value, factor);
    const isLength =
      (key === "size" && parent === "marker") ||
      (key === "width" && parent === "line") ||
      parent === "margin" ||
      parent === "pad" ||
      PIXELS.has(key);
    return isLength ? value * factor : value;
  }
  if (typeof value === "string") {
    return value.replace(/font-size:\s*([\d.]+)px/g, (_, size) => `font-size:${font(Number(size), factor)}px`);
  }
  if (Array.isArray(value)) return value.map((item) => scaled(item, factor, key, parent));
  if (value === null || typeof value !== "object" || value instanceof ArrayBuffer) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, scaled(item, factor, name, key)]));
}

/** Call `restyle()` whenever the page's theme may have changed; returns what stops that. */
function watchTheme(restyle) {
  // The style sheets of a theme arrive some time after the attribute that names it, and say nothing then: look again.
  let later = [];
  const themes = new MutationObserver(() => {
    restyle();
    later.forEach(clearTimeout);
    later = [100, 300, 1000, 3000].map((delay) => setTimeout(restyle, delay));
  });
  themes.observe(document.body, { attributes: true });
  themes.observe(document.documentElement, { attributes: true });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", restyle);
  return () => {
    later.forEach(clearTimeout);
    themes.disconnect();
    scheme.removeEventListener("change", restyle);
  };
}
