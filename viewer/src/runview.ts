// One run: header, call tree, and the tab that is open.
import type { Run } from "./data";
import { ContextView } from "./context";
import { nodeDetail } from "./detail";
import { h, isolated } from "./dom";
import { compact, dollars, nodeStatus, seconds } from "./format";
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

const MAX_FILLED_BLOCKS = 200; // more take noticeably long to unpack
const isSmall = (view: HTMLElement): boolean => view.querySelectorAll(".block").length <= MAX_FILLED_BLOCKS;

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
      (index) => this.navigate(this.links.node(index)),
      (index) => this.moveTo(index),
    );
    this.search = new Search(run, this.links);
    const tablist = h("div", { class: "tabs", role: "tablist", "aria-label": "Run views" });
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
          click: () => this.openTab(tab),
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
    this.showTab("node");
  }

  /** Show what a URL fragment names: a node and a part of it, or a tab. */
  route(what: string, part: string | undefined): void {
    const index = Number(what);
    if (what !== "" && Number.isInteger(index) && this.run.nodes[index]) {
      this.showNode(index, part);
      this.showTab("node");
    } else if (what === "context") {
      this.showTab("context");
      void this.contextView!.show(Number(part) || 0);
    } else if ((TABS as readonly string[]).includes(what)) this.showTab(what as Tab);
  }

  showNode(index: number, part?: string): void {
    const panel = this.panels.get("node")!;
    if (index !== this.node) {
      this.node = index;
      this.tree.select(index);
      const view = nodeDetail(this.run, index, this.links);
      panel.replaceChildren(view);
      panel.scrollTop = 0;
      if (isSmall(view)) requestIdleCallback(() => void fillAll(view), { timeout: 2000 });
    }
    if (!part) return;
    const target = [...panel.querySelectorAll<HTMLElement>("[data-part]")]
      .reverse()
      .find((element) => element.dataset.part === part);
    const filled = isSmall(panel) ? fillAll(panel) : Promise.resolve();
    void filled.then(() => target?.scrollIntoView({ block: "start" }));
  }

  /** Move to the next or previous call, by start time. */
  step(by: number): void {
    const next = Math.max(0, Math.min(this.run.nodes.length - 1, this.node + by));
    this.moveTo(next);
  }

  focusSearch(): void {
    this.openTab("search");
    this.search.input.focus();
    this.search.input.select();
  }

  focusTree(): void {
    this.tree.focus();
  }

  openTab(tab: Tab): void {
    this.navigate(tab === "node" ? this.links.node(this.node) : `#${this.number}/${tab}`);
  }

  /** Navigate to a URL fragment, as a link does. */
  private navigate(hash: string): void {
    if (location.hash !== hash) location.hash = hash;
    const [, what, part] = hash.split("/");
    this.route(what!, part);
  }

  /** Select a node without a step in the browser history. Stays on the tree if the tree is a tab. */
  private moveTo(index: number): void {
    history.replaceState(null, "", this.links.node(index));
    this.showNode(index);
    if (this.element.dataset.tab !== "calls") this.showTab("node");
  }

  private showTab(tab: Tab): void {
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
    this.openTab(next);
    this.tabs.get(next)!.focus();
    event.preventDefault();
  }

  private head(): HTMLElement {
    const { run } = this;
    const root = run.nodes[0]!;
    const status = nodeStatus(root, run);
    const rlms = run.nodes.filter((node) => node.rlm).length;
    const fact = (value: string, what: string): HTMLElement => h("span", {}, h("b", {}, value), ` ${what}`);
    return h(
      "header",
      { class: "run-head" },
      h("h1", {}, isolated(run.id, "mono"), " ", h("span", { class: `badge ${status.kind}` }, status.word)),
      h(
        "p",
        { class: "stats" },
        fact(seconds(run.ended ?? run.latest), ""),
        fact(dollars(root.totalUsage[5]), ""),
        fact(compact(root.totalUsage[1] + root.totalUsage[2]), "tokens"),
        fact(compact(root.totalUsage[0]), root.totalUsage[0] === 1 ? "model call" : "model calls"),
        fact(String(rlms), rlms === 1 ? "RLM" : "RLMs"),
        fact("", `depth ${run.depth}`),
        fact("", `${new Date(run.started * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`),
      ),
    );
  }
}
