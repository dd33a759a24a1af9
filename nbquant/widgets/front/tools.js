// Below each figure: its picture, its numbers, and what a region holds; and what the kernel sends of them.

const FORMATS = { png: "PNG", svg: "SVG", csv: "CSV" };

/** A row of buttons and the table they open; `ask(message)` goes to the kernel. */
function toolRow(name, title, ask) {
  const told = element("span", { className: "nbquant-told" });
  const row = element("div", { className: "nbquant-tools", role: "group", "aria-label": `${title}: tools` }, told);
  for (const [format, text] of Object.entries(FORMATS)) {
    const button = element("button", { type: "button", textContent: text, title: `Download ${title} as ${text}` });
    button.setAttribute("aria-label", button.title);
    button.addEventListener("click", () => ask({ kind: "download", figure: name, format }));
    row.append(button);
  }
  const holder = element("div", {
    className: "nbquant-numbers",
    hidden: true,
    tabIndex: 0,
    role: "region",
    "aria-label": `${title}: numbers`,
  });
  const toggle = element("button", { type: "button", textContent: "Table", "aria-expanded": "false" });
  toggle.setAttribute("aria-label", `${title} as a table`);
  row.append(toggle);
  const request = () => ask({ kind: "table", figure: name });
  toggle.addEventListener("click", () => {
    holder.hidden = !holder.hidden;
    toggle.setAttribute("aria-expanded", String(!holder.hidden));
    if (holder.hidden) holder.replaceChildren();
    else request();
  });
  let later = 0;
  return {
    row,
    holder,
    told,
    /** The numbers changed: ask for them anew once they rest. */
    refresh() {
      clearTimeout(later);
      if (!holder.hidden) later = setTimeout(request, 300);
    },
    show(message) {
      if (!holder.hidden) holder.replaceChildren(tableOf(title, message));
    },
    dispose: () => clearTimeout(later),
  };
}

function cellText(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? count(value) : significant(value, 6);
}

function tableOf(title, { columns, rows, total }) {
  const some = rows.length < total ? `, the first ${count(rows.length)} of ${count(total)} rows` : "";
  const head = element("tr", {}, ...columns.map((text) => element("th", { scope: "col", textContent: text })));
  const body = rows.map((row) =>
    element(
      "tr",
      {},
      ...row.map((value, i) => {
        const cell = element(i ? "td" : "th", { textContent: cellText(value) });
        if (!i) cell.scope = "row";
        if (typeof value === "number") cell.className = "nbquant-number";
        return cell;
      }),
    ),
  );
  return element(
    "table",
    {},
    element("caption", { textContent: title + some }),
    element("thead", {}, head),
    element("tbody", {}, ...body),
  );
}

// Every view of a model hears a message; the first one that takes it has it.
const TAKEN = new WeakSet();

function takes(message) {
  if (TAKEN.has(message)) return false;
  TAKEN.add(message);
  return true;
}

function download({ name, mime }, [bytes]) {
  const address = URL.createObjectURL(new Blob([bytes], { type: mime }));
  const link = element("a", { href: address, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Put text on the clipboard; where that is refused show it selected, to be copied by hand. */
async function copyText(text, panel, say) {
  panel.querySelector(".nbquant-copy")?.remove();
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    const area = element("textarea", { value: text, readOnly: true, rows: 8, "aria-label": "Text to copy" });
    const close = element("button", { type: "button", textContent: "Close" });
    const hint = element("p", { textContent: "The browser keeps the clipboard to itself: copy this by hand (Ctrl+C)." });
    const box = element("div", { className: "nbquant-copy" }, hint, area, close);
    const away = () => box.remove();
    close.addEventListener("click", away);
    box.addEventListener("keydown", (event) => event.key === "Escape" && away());
    panel.prepend(box);
    area.focus();
    area.select();
  }
}
