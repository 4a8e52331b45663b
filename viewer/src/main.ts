// The page: reads the record, shows its runs, and listens to the keyboard and the address.
import "./style.css";
import { comparison } from "./compare";
import { readRuns } from "./data";
import { button, h } from "./dom";
import { RunView } from "./runview";

const KEYS: [string, string][] = [
  ["↑ ↓ ← →", "walk, fold and unfold the tree"],
  ["j k", "next and previous call, in the order of their start"],
  ["/", "search all texts"],
  ["d t c", "details, timeline, context"],
  ["g", "to the tree"],
  ["+ −", "zoom, in the timeline"],
  ["b", "light or dark"],
  ["?", "this help"],
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
      h("span", { class: "brand" }, "rlm.trajectory.view"),
      h("span", { class: "spacer" }),
      button("Light or dark", switchTheme),
      button("Keys", () => help.showModal(), { "aria-keyshortcuts": "?" }),
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
        view.choose("node");
        break;
      case "t":
        view.choose("timeline");
        break;
      case "c":
        view.choose("context");
        break;
      case "g":
        view.focusTree();
        break;
      case "b":
        switchTheme();
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
    { "aria-label": "Keys" },
    h("h2", {}, "Keys"),
    h(
      "dl",
      { class: "keys" },
      ...KEYS.map(([keys, what]) =>
        h("div", {}, h("dt", {}, ...keys.split(" ").flatMap((key) => [h("kbd", {}, key), " "])), h("dd", {}, what)),
      ),
    ),
  );
  dialog.append(button("Close", () => dialog.close()));
  return dialog;
}

function switchTheme(): void {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

start().catch((error: unknown) => {
  document.body.prepend(
    h(
      "p",
      { class: "fatal", role: "alert" },
      `This page cannot be shown: ${error instanceof Error ? error.message : String(error)}`,
    ),
  );
});
