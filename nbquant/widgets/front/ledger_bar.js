// The ledger as one stacked bar, with every part's bytes and share in words below.

function ledgerBar(palette, { row, holder, told }) {
  const bar = element("div", { className: "nbquant-ledger-bar", "aria-hidden": "true" });
  const legend = element("ul", { className: "nbquant-ledger-legend" });
  const total = element("li", { className: "nbquant-ledger-total" });
  legend.append(total);
  told.textContent = "Where the bits go";
  const section = element(
    "section",
    { className: "nbquant-ledger-section", "aria-label": "Where the bits go", hidden: true },
    row,
    bar,
    legend,
    holder,
  );
  const parts = new Map();

  function part(name) {
    const colour = palette.parts[name] ?? palette.other;
    const piece = element("div", { title: name.replaceAll("_", " "), "data-part": name });
    piece.style.backgroundColor = colour;
    const swatch = element("span", { className: "nbquant-swatch", "aria-hidden": "true" });
    swatch.style.backgroundColor = colour;
    const bytes = element("span");
    const share = element("span", { className: "nbquant-ledger-share" });
    const entry = element("li", {}, swatch, `${name.replaceAll("_", " ")} `, bytes, " ", share);
    bar.append(piece);
    legend.insertBefore(entry, total);
    return { piece, entry, bytes, share };
  }

  return {
    section,
    show(ledger) {
      const names = Object.keys(ledger);
      let sum = 0;
      for (const name of names) sum += ledger[name];
      for (const name of names) if (!parts.has(name)) parts.set(name, part(name));
      for (const [name, { piece, entry, bytes, share }] of parts) {
        const bits = ledger[name] ?? 0;
        put(piece, "hidden", !bits);
        put(entry, "hidden", !bits);
        if (!bits) continue;
        put(piece.style, "flexGrow", (bits / sum).toFixed(5));
        put(bytes, "textContent", `${count(bits / 8)} B`);
        put(share, "textContent", percent(bits / sum));
      }
      put(total, "textContent", `total ${count(sum / 8)} B`);
      put(section, "hidden", sum === 0);
    },
  };
}
