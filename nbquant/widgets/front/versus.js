// The point now against the pin that is compared, in numbers.

function versusSection(model) {
  const list = element("ul", { className: "nbquant-versus", "aria-label": "Now against the pin", "aria-live": "polite" });

  function show() {
    const rows = (model.get("versus") ?? []).map(({ label, value, note }) => {
      const said = element("span", { "data-versus": label }, element("b", { textContent: value }), element("small", { textContent: note }));
      return element("li", {}, element("span", { textContent: label }), said);
    });
    list.replaceChildren(...rows);
    list.hidden = !rows.length;
  }
  model.on("change:versus", show);
  show();
  return { section: list, dispose: () => model.off("change:versus", show) };
}
