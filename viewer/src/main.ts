// The page: reads its data, shows the runs, and handles the keyboard and the URL fragment.
import "./style.css";
import { comparison } from "./compare";
import { readRuns } from "./data";
import { button, h } from "./dom";
import { RunView } from "./runview";

const SHORTCUTS: [string, string][] = [
  ["↑ ↓ ← →", "move through the tree, expand and collapse"],
  ["j k", "next and previous call, by start time"],
  ["/", "search all texts"],
  ["d t c", "details, timeline, context"],
  ["g", "focus the tree"],
  ["+ −", "zoom the timeline"],
  ["b", "toggle theme"],
  ["?", "show this help"],
];

async function start(): Promise<void> {
  const runs = await readRuns();
  const views = runs.map((run, number) => new RunView(run, number));
  const help = helpDialog();
  let active = 0;
  views.forEach((view, number) =>
    view.element.addEventListener("focusin", () => {
      active = number;
    }),
  );

  document.body.prepend(
    h(
      "header",
      { class: "top" },
      h("span", { class: "brand" }, "rlm view"),
      h("span", { class: "spacer" }),
      button("Toggle theme", toggleTheme),
      button("Shortcuts", () => help.showModal(), { "aria-keyshortcuts": "?" }),
    ),
    h(
      "main",
      {},
      runs.length > 1 ? comparison(runs) : null,
      h("div", { class: runs.length > 1 ? "runs two" : "runs" }, ...views.map((view) => view.element)),
    ),
    help,
  );
  views.forEach((view) => view.showNode(0));

  const route = (): void => {
    const [number, what, part] = location.hash.slice(1).split("/");
    const view = views[Number(number)];
    if (!view || what === undefined) return;
    active = view.number;
    view.route(what, part);
  };
  addEventListener("hashchange", route);
  route();

  addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement;
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (typing && event.key !== "Escape") return;
    const view = views[active]!;
    switch (event.key) {
      case "j":
        view.step(1);
        break;
      case "k":
        view.step(-1);
        break;
      case "/":
        view.focusSearch();
        break;
      case "d":
        view.openTab("node");
        break;
      case "t":
        view.openTab("timeline");
        break;
      case "c":
        view.openTab("context");
        break;
      case "g":
        view.focusTree();
        break;
      case "b":
        toggleTheme();
        break;
      case "?":
        help.showModal();
        break;
      case "Escape":
        if (typing) view.focusTree();
        break;
      default:
        return;
    }
    event.preventDefault();
  });
  document.documentElement.dataset.ready = "";
}

function helpDialog(): HTMLDialogElement {
  const dialog = h(
    "dialog",
    { "aria-label": "Keyboard shortcuts" },
    h("h2", {}, "Keyboard shortcuts"),
    h(
      "dl",
      { class: "keys" },
      ...SHORTCUTS.map(([keys, what]) =>
        h("div", {}, h("dt", {}, ...keys.split(" ").flatMap((key) => [h("kbd", {}, key), " "])), h("dd", {}, what)),
      ),
    ),
  );
  dialog.append(button("Close", () => dialog.close()));
  return dialog;
}

function toggleTheme(): void {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

start().catch((error: unknown) => {
  document.body.prepend(
    h(
      "p",
      { class: "fatal", role: "alert" },
      `Cannot show this page: ${error instanceof Error ? error.message : String(error)}`,
    ),
  );
});
