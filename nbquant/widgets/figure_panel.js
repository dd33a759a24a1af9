// Draws the figures of a FigurePanel. `loadPlotly` comes from figure_panel.py, which puts it before this text.

const CONFIG = {
  displaylogo: false,
  responsive: false, // our ResizeObserver sees the panel, not only the window
  doubleClick: "reset",
  typesetMath: false, // else plotly meets the notebook's MathJax
  // Named one by one: a later plotly.js may bring buttons that send the chart somewhere, as 4.1 does.
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  showSendToCloud: false,
  plotlyServerURL: "",
};

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
  if (value instanceof DataView) {
    return value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength);
  }
  if (Array.isArray(value)) return value.map((item) => dressed(item, colours));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, dressed(item, colours)]));
}

function clickedPoint(name, event, serial) {
  const { curveNumber, pointNumber, x, y } = event.points[0];
  const plain = (v) => (typeof v === "number" && !Number.isFinite(v) ? null : v);
  return { figure: name, curve: curveNumber, point: pointNumber, x: plain(x), y: plain(y), serial };
}

function render({ model, el }) {
  const Plotly = loadPlotly();
  const names = model.get("names");
  const panel = document.createElement("div");
  panel.className = "nbquant-panel";
  const grid = document.createElement("div");
  grid.className = "nbquant-panel-grid";
  const probe = document.createElement("span");
  probe.className = "nbquant-figure-colour";
  panel.append(grid, probe);

  const nodes = new Map();
  for (const name of names) {
    const node = document.createElement("div");
    node.className = "nbquant-figure";
    node.dataset.figure = name;
    node.dataset.draws = "0";
    node.setAttribute("role", "figure");
    nodes.set(name, node);
    grid.append(node);
  }
  el.append(panel);

  let colours = {};
  let frame = 0;
  let drawing = false;
  let disposed = false;
  const stale = new Set(names);
  const resized = new Set();
  const listening = new Set();

  // Plotly throws where its margins leave no room for axes, as in a panel that is just being opened.
  const visible = (node) => node.clientWidth >= 150 && node.clientHeight >= 150;

  async function draw(name) {
    const node = nodes.get(name);
    const state = model.get(name);
    if (!state?.data) return;
    const { data, layout } = dressed({ data: state.data, layout: state.layout }, colours);
    layout.width = node.clientWidth;
    layout.height = node.clientHeight;
    layout.font = { ...layout.font, family: getComputedStyle(panel).fontFamily };
    const started = performance.now();
    const png = { filename: `nbquant_${name}`, scale: 2 };
    await Plotly.react(node, data, layout, { ...CONFIG, toImageButtonOptions: png });
    if (disposed) return;
    if (!listening.has(name)) {
      listening.add(name);
      node.on("plotly_click", (event) => {
        model.set("clicked", clickedPoint(name, event, (model.get("clicked")?.serial ?? 0) + 1));
        model.save_changes();
      });
    }
    node.dataset.milliseconds = (performance.now() - started).toFixed(1);
    node.dataset.draws = String(Number(node.dataset.draws) + 1);
    node.dataset.revision = String(state.revision);
  }

  // A drag sends states faster than they can be drawn: each frame draws the newest of each stale figure, once.
  async function drawStale() {
    frame = 0;
    if (drawing || disposed) return;
    drawing = true;
    try {
      for (const name of names) {
        if (disposed) break;
        const node = nodes.get(name);
        // A figure without a size (a hidden tab, or not yet attached) waits for the ResizeObserver.
        if (!visible(node)) continue;
        if (stale.delete(name)) {
          resized.delete(name);
          try {
            await draw(name);
            delete node.dataset.error;
          } catch (error) {
            // The last good picture stays, and the other figures are drawn all the same.
            node.dataset.error = String(error);
            console.error(`nbquant: cannot draw ${name}`, error);
          }
        } else if (resized.delete(name) && node.dataset.revision !== undefined) {
          await Plotly.relayout(node, { width: node.clientWidth, height: node.clientHeight });
        }
      }
    } finally {
      drawing = false;
    }
    if (names.some((name) => (stale.has(name) || resized.has(name)) && visible(nodes.get(name)))) schedule();
  }

  // A late figure takes no room before it has something to show.
  function reveal() {
    for (const name of model.get("late")) nodes.get(name).hidden = !model.get(name)?.data;
  }

  function schedule() {
    if (!frame && !disposed) frame = requestAnimationFrame(drawStale);
  }

  function restyle() {
    if (disposed || !panel.isConnected) return;
    const now = themeColours(probe, model.get("_roles"));
    if (JSON.stringify(now) !== JSON.stringify(colours)) {
      colours = now;
      names.forEach((name) => stale.add(name));
    }
    // Between two themes the page has no layout for a moment, too short for the ResizeObserver to tell: whatever found
    // its figure without a size then is drawn now.
    if (stale.size) schedule();
  }

  function describe() {
    const descriptions = model.get("descriptions");
    for (const [name, node] of nodes) node.setAttribute("aria-label", descriptions[name] ?? name.replaceAll("_", " "));
  }

  const listeners = [["change:descriptions", describe]];
  for (const name of names) {
    listeners.push([
      `change:${name}`,
      () => {
        stale.add(name);
        reveal();
        schedule();
      },
    ]);
  }
  listeners.forEach(([event, listener]) => model.on(event, listener));

  const sizes = new ResizeObserver((entries) => {
    restyle(); // the first time with a size is the first time that the theme's variables can be read
    for (const { target } of entries) {
      const layout = target._fullLayout;
      if (!layout || layout.width !== target.clientWidth || layout.height !== target.clientHeight) {
        resized.add(target.dataset.figure);
      }
    }
    schedule();
  });
  nodes.forEach((node) => sizes.observe(node));

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

  describe();
  reveal();
  restyle();
  schedule();

  return () => {
    disposed = true;
    cancelAnimationFrame(frame);
    later.forEach(clearTimeout);
    sizes.disconnect();
    themes.disconnect();
    scheme.removeEventListener("change", restyle);
    listeners.forEach(([event, listener]) => model.off(event, listener));
    nodes.forEach((node) => Plotly.purge(node));
    panel.remove();
  };
}

export default { render };
