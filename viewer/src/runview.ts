// One run: its head, its tree, and beside it what is looked at.
import type { Run } from "./data";
import { ContextView } from "./context";
import { detail } from "./detail";
import { h, said } from "./dom";
import { dollars, seconds, short, state } from "./format";
import type { Links } from "./links";
import { Search } from "./search";
import { fillAll } from "./text";
import { Timeline } from "./timeline";
import { Tree } from "./tree";

export const TABS = ["calls", "node", "timeline", "context", "search"] as const;
export type Tab = (typeof TABS)[number];
const TITLES: Record<Tab, string> = {
  calls: "Calls",
  node: "Details",
  timeline: "Timeline",
  context: "Context",
  search: "Search",
};

export class RunView {
  readonly element: HTMLElement;
  private readonly tree: Tree;
  private readonly search: Search;
  private readonly panels = new Map<Tab, HTMLElement>();
  private readonly tabs = new Map<Tab, HTMLElement>();
  private readonly links: Links;
  private contextView: ContextView | null = null;
  private node = -1;

  constructor(
    readonly run: Run,
    readonly number: number,
  ) {
    this.links = {
      node: (index, part) => `#${number}/${index}${part ? `/${part}` : ""}`,
      context: (offset) => `#${number}/context/${offset}`,
    };
    this.tree = new Tree(
      run,
      `n${number}-`,
      (index) => this.go(this.links.node(index)),
      (index) => this.move(index),
    );
    this.search = new Search(run, this.links);
    const tablist = h("div", { class: "tabs", role: "tablist", "aria-label": "Views of the run" });
    const main = h("div", { class: "main" });
    for (const tab of TABS) {
      const panel = h("div", {
        class: `panel panel-${tab}`,
        role: "tabpanel",
        id: `p${number}-${tab}`,
        "aria-labelledby": `b${number}-${tab}`,
        tabindex: tab === "node" ? "0" : null,
      });
      const head = h(
        "button",
        {
          type: "button",
          role: "tab",
          id: `b${number}-${tab}`,
          class: `tab tab-${tab}`,
          "aria-controls": panel.id,
          click: () => this.choose(tab),
        },
        TITLES[tab],
      );
      head.addEventListener("keydown", (event) => this.tabKey(event, tab));
      this.panels.set(tab, panel);
      this.tabs.set(tab, head);
      tablist.append(head);
      main.append(panel);
    }
    this.panels.get("calls")!.append(this.tree.element);
    this.panels.get("search")!.append(this.search.element);
    this.element = h("section", { class: "run", "aria-label": `Run ${number + 1}` }, this.head(), tablist, main);
    this.open("node");
  }

  /** Show what a part of the address names: a node and a part of it, or a tab. */
  route(what: string, part: string | undefined): void {
    const index = Number(what);
    if (what !== "" && Number.isInteger(index) && this.run.nodes[index]) {
      this.showNode(index, part);
      this.open("node");
    } else if (what === "context") {
      this.open("context");
      void this.contextView!.show(Number(part) || 0);
    } else if ((TABS as readonly string[]).includes(what)) this.open(what as Tab);
  }

  showNode(index: number, part?: string): void {
    const panel = this.panels.get("node")!;
    if (index !== this.node) {
      this.node = index;
      this.tree.select(index);
      const view = detail(this.run, index, this.links);
      panel.replaceChildren(view);
      panel.scrollTop = 0;
      if (view.querySelectorAll(".block").length <= 200) requestIdleCallback(() => fillAll(view), { timeout: 2000 });
    }
    if (!part) return;
    const target = [...panel.querySelectorAll<HTMLElement>("[data-part]")]
      .reverse()
      .find((element) => element.dataset.part === part);
    requestAnimationFrame(() => target?.scrollIntoView({ block: "start" }));
  }

  /** The next or previous call in the order of their start. */
  step(by: number): void {
    const next = Math.max(0, Math.min(this.run.nodes.length - 1, this.node + by));
    this.move(next);
  }

  focusSearch(): void {
    this.choose("search");
    this.search.input.focus();
    this.search.input.select();
  }

  focusTree(): void {
    this.tree.focus();
  }

  choose(tab: Tab): void {
    this.go(tab === "node" ? this.links.node(this.node) : `#${this.number}/${tab}`);
  }

  /** To an address, as a link goes there. */
  private go(hash: string): void {
    if (location.hash !== hash) location.hash = hash;
    const [, what, part] = hash.split("/");
    this.route(what!, part);
  }

  /** To a node, without a step in the browser's history. Where the tree fills the view, it stays. */
  private move(index: number): void {
    history.replaceState(null, "", this.links.node(index));
    this.showNode(index);
    if (this.element.dataset.tab !== "calls") this.open("node");
  }

  private open(tab: Tab): void {
    this.element.dataset.tab = tab;
    for (const [name, head] of this.tabs) {
      head.setAttribute("aria-selected", String(name === tab));
      head.tabIndex = name === tab ? 0 : -1;
    }
    if (tab === "timeline" && !this.panels.get(tab)!.firstChild)
      this.panels.get(tab)!.append(new Timeline(this.run, (index) => this.links.node(index)).element);
    if (tab === "context" && !this.contextView) {
      this.contextView = new ContextView(this.run, this.links);
      this.panels.get(tab)!.append(this.contextView.element);
    }
  }

  private tabKey(event: KeyboardEvent, tab: Tab): void {
    const seen = TABS.filter((name) => this.tabs.get(name)!.offsetParent !== null);
    const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!by) return;
    const next = seen[(seen.indexOf(tab) + by + seen.length) % seen.length]!;
    this.choose(next);
    this.tabs.get(next)!.focus();
    event.preventDefault();
  }

  private head(): HTMLElement {
    const { run } = this;
    const root = run.nodes[0]!;
    const status = state(root, run);
    const rlms = run.nodes.filter((node) => node.rlm).length;
    const fact = (value: string, what: string): HTMLElement => h("span", {}, h("b", {}, value), ` ${what}`);
    return h(
      "header",
      { class: "run-head" },
      h("h1", {}, said(run.id, "mono"), " ", h("span", { class: `badge ${status.kind}` }, status.word)),
      h(
        "p",
        { class: "stats" },
        fact(seconds(run.ended ?? run.latest), ""),
        fact(dollars(root.total[5]), ""),
        fact(short(root.total[1] + root.total[2]), "tokens"),
        fact(short(root.total[0]), root.total[0] === 1 ? "model call" : "model calls"),
        fact(String(rlms), rlms === 1 ? "RLM" : "RLMs"),
        fact("", `depth ${run.depth}`),
        fact("", `${new Date(run.began * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`),
      ),
    );
  }
}
