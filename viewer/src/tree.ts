// The call tree, with keyboard navigation (WAI-ARIA tree pattern).
import type { Node, Run } from "./data";
import { h, isolated } from "./dom";
import { dollars, elapsed, nodeStatus, seconds } from "./format";
import { VirtualList } from "./virtual";

const ROW_HEIGHT = 30;
const MAX_EXPANDED_NODES = 200; // smaller trees start expanded
const MIN_FILTERED_NODES = 20; // smaller trees fit the screen without a filter
const FILTERS: Record<string, (node: Node, run: Run) => boolean> = {
  "All calls": () => true,
  "RLMs only": (node) => node.rlm,
  "Failed or stopped": (node, run) => nodeStatus(node, run).kind !== "ok",
};

export class Tree {
  readonly element: HTMLElement;
  private readonly tree: HTMLElement;
  private readonly list: VirtualList;
  private readonly children: number[][];
  private readonly levels: number[];
  private readonly open = new Set<number>();
  private readonly filter: HTMLSelectElement;
  private matching: boolean[] = [];
  private rows: number[] = [];
  private places = new Map<number, number>();
  private selected = 0;

  constructor(
    private readonly run: Run,
    private readonly prefix: string,
    private readonly choose: (node: number) => void,
    private readonly move: (node: number) => void,
  ) {
    this.children = run.nodes.map(() => []);
    this.levels = run.nodes.map(() => 0);
    run.nodes.forEach((node, index) => {
      if (node.parent < 0) return;
      this.children[node.parent]!.push(index);
      this.levels[index] = this.levels[node.parent]! + 1;
    });
    run.nodes.forEach((_, index) => {
      if (index === 0 || run.nodes.length <= MAX_EXPANDED_NODES) this.open.add(index);
    });
    this.list = new VirtualList(ROW_HEIGHT, (row) => this.row(row), {
      class: "tree",
      role: "tree",
      tabindex: "0",
      "aria-label": "Call tree",
    });
    this.tree = this.list.element;
    this.tree.addEventListener("keydown", (event) => this.key(event));
    this.filter = h(
      "select",
      { "aria-label": "Filter calls", change: () => this.applyFilter() },
      ...Object.keys(FILTERS).map((name) => h("option", {}, name)),
    );
    const bar = run.nodes.length > MIN_FILTERED_NODES && h("div", { class: "toolbar" }, this.filter);
    this.element = h("div", { class: "calls-panel" }, bar, this.tree);
    this.applyFilter();
  }

  focus(): void {
    this.tree.focus();
  }

  /** Select a node, and expand its ancestors. */
  select(index: number): void {
    this.selected = index;
    for (let at = this.run.nodes[index]!.parent; at >= 0; at = this.run.nodes[at]!.parent) this.open.add(at);
    if (!this.matching[index]) {
      this.filter.selectedIndex = 0;
      this.applyFilter();
    } else this.updateRows();
    this.list.show(this.places.get(index)!);
    this.tree.setAttribute("aria-activedescendant", `${this.prefix}${index}`);
  }

  /** Show what the filter matches and its ancestors, expanded. */
  private applyFilter(): void {
    const { nodes } = this.run;
    const matches = FILTERS[this.filter.value]!;
    this.matching = nodes.map((node) => matches(node, this.run));
    this.matching[0] = true;
    for (let index = nodes.length - 1; index > 0; index--) {
      if (!this.matching[index]) continue;
      this.matching[nodes[index]!.parent] = true;
      if (this.filter.selectedIndex > 0) this.open.add(nodes[index]!.parent);
    }
    this.updateRows();
  }

  private updateRows(): void {
    this.rows = [];
    const stack = [0];
    while (stack.length) {
      const index = stack.pop()!;
      this.rows.push(index);
      if (this.open.has(index))
        for (const child of [...this.children[index]!].reverse()) if (this.matching[child]) stack.push(child);
    }
    this.places = new Map(this.rows.map((index, place) => [index, place]));
    this.list.set(this.rows.length);
  }

  private toggle(index: number, open = !this.open.has(index)): void {
    if (open) this.open.add(index);
    else this.open.delete(index);
    this.updateRows();
  }

  private row(place: number): HTMLElement {
    const index = this.rows[place]!;
    const node = this.run.nodes[index]!;
    const hasChildren = this.children[index]!.length > 0;
    const siblings = node.parent < 0 ? [index] : this.children[node.parent]!;
    const status = nodeStatus(node, this.run);
    const twisty = h(
      "span",
      { class: "twisty", "aria-hidden": "true" },
      hasChildren ? (this.open.has(index) ? "▾" : "▸") : "",
    );
    if (hasChildren)
      twisty.addEventListener("click", (event) => {
        event.stopPropagation();
        this.toggle(index);
      });
    const row = h(
      "div",
      {
        class: `row ${index === this.selected ? "selected" : ""}`,
        id: `${this.prefix}${index}`,
        role: "treeitem",
        "aria-level": String(this.levels[index]! + 1),
        "aria-posinset": String(siblings.indexOf(index) + 1),
        "aria-setsize": String(siblings.length),
        "aria-selected": String(index === this.selected),
        "aria-expanded": hasChildren ? String(this.open.has(index)) : null,
        click: () => this.choose(index),
      },
      twisty,
      h("span", { class: `dot ${status.kind}`, role: "img", "aria-label": status.word }),
      h("span", { class: node.rlm ? "kind rlm" : "kind" }, node.rlm ? "RLM" : "call"),
      isolated(node.id, "id"),
      isolated(node.label.replace(/\s+/g, " "), "label"),
      h("span", { class: "num cost" }, node.totalUsage[5] === null ? "?" : dollars(node.totalUsage[5])),
      h("span", { class: "num" }, seconds(elapsed(node, this.run))),
    );
    row.style.setProperty("--level", String(Math.min(this.levels[index]!, 8)));
    return row;
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const place = this.places.get(this.selected) ?? 0;
    const to = (row: number): void => this.move(this.rows[Math.max(0, Math.min(this.rows.length - 1, row))]!);
    const hasChildren = this.children[this.selected]!.length > 0;
    const isOpen = hasChildren && this.open.has(this.selected);
    switch (event.key) {
      case "ArrowDown":
        to(place + 1);
        break;
      case "ArrowUp":
        to(place - 1);
        break;
      case "PageDown":
        to(place + this.list.pageRows);
        break;
      case "PageUp":
        to(place - this.list.pageRows);
        break;
      case "Home":
        to(0);
        break;
      case "End":
        to(this.rows.length - 1);
        break;
      case "ArrowRight":
        if (isOpen) to(place + 1);
        else if (hasChildren) this.toggle(this.selected, true);
        break;
      case "ArrowLeft":
        if (isOpen) this.toggle(this.selected, false);
        else if (this.run.nodes[this.selected]!.parent >= 0) this.move(this.run.nodes[this.selected]!.parent);
        break;
      case "Enter":
        this.choose(this.selected);
        break;
      case "*":
        for (const child of this.children[this.run.nodes[this.selected]!.parent] ?? []) this.open.add(child);
        this.updateRows();
        break;
      default:
        return;
    }
    event.preventDefault();
  }
}
