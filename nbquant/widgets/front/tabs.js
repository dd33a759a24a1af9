// Panels of which one is shown, with a list of tabs; each keeps its state while another is shown.

/** `entries` are {name, title, panel}; `shown` says which tabs there are now. */
function tabList(entries, label) {
  const list = element("div", { className: "nbquant-tabs", role: "tablist", "aria-label": label });
  const tabs = new Map();
  let chosen = entries[0].name;
  let free = new Set(entries.map(({ name }) => name));
  const id = `nbquant-tabs-${Math.random().toString(36).slice(2)}`;

  for (const { name, title, panel } of entries) {
    const tab = element("button", { type: "button", role: "tab", id: `${id}-${name}`, textContent: title, "data-tab": name });
    tab.setAttribute("aria-controls", `${id}-panel-${name}`);
    tab.setAttribute("data-lm-suppress-shortcuts", "true");
    panel.id = `${id}-panel-${name}`;
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-label", title);
    panel.dataset.panel = name;
    tab.addEventListener("click", () => choose(name));
    tabs.set(name, { tab, panel });
    list.append(tab);
  }

  list.addEventListener("keydown", (event) => {
    const names = [...tabs.keys()].filter((name) => free.has(name) && !tabs.get(name).tab.hidden);
    const at = names.indexOf(chosen);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(names[(to + names.length) % names.length]);
    tabs.get(chosen).tab.focus();
  });

  function refresh() {
    if (!free.has(chosen) || tabs.get(chosen).tab.hidden) {
      chosen = [...tabs.keys()].find((name) => free.has(name) && !tabs.get(name).tab.hidden) ?? chosen;
    }
    for (const [name, { tab, panel }] of tabs) {
      const isChosen = name === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      tab.toggleAttribute("data-pinned", !free.has(name));
      panel.toggleAttribute("data-away", free.has(name) && !isChosen);
    }
  }

  function choose(name) {
    chosen = name;
    refresh();
  }

  refresh();
  return {
    list,
    choose,
    /** Have tabs for these only; the panels of the others always show. */
    free(names) {
      free = new Set(names);
      refresh();
    },
    /** Have no tab for a panel that has nothing to show yet. */
    hide(name, isHidden) {
      tabs.get(name).tab.hidden = isHidden;
      refresh();
    },
  };
}
