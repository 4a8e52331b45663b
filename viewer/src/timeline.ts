// All nodes over time: waiting, running, and how many model calls ran at once.
import type { Entry, Node, Run } from "./data";
import { button, h, isolated, svg } from "./dom";
import { elapsed, nodeStatus, plural, seconds } from "./format";
import { VirtualList } from "./virtual";

const ROW_HEIGHT = 24;
const BUCKETS = 240;

type Span = [from: number, to: number, kind: "model" | "cell" | "failed"];

export class Timeline {
  readonly element: HTMLElement;
  private readonly list: VirtualList;
  private readonly axis = h("div", { class: "axis", "aria-hidden": "true" });
  private readonly range = h("span", { class: "muted", role: "status" });
  private readonly chart: HTMLElement;
  private readonly end: number;
  private rows: number[] = [];
  private view: [number, number];

  constructor(
    private readonly run: Run,
    private readonly href: (node: number) => string,
  ) {
    this.end = Math.max(0.001, run.ended ?? run.latest);
    this.view = [0, this.end];
    this.list = new VirtualList(ROW_HEIGHT, (row) => this.row(row), {
      class: "waterfall",
      role: "list",
      tabindex: "0",
      "aria-label": "Calls by start time",
    });
    this.chart = this.concurrency();
    this.element = h(
      "div",
      { class: "timeline" },
      h(
        "div",
        { class: "toolbar" },
        button("Zoom in", () => this.zoom(0.5)),
        button("Zoom out", () => this.zoom(2)),
        button("Reset zoom", () => this.setView(0, this.end)),
        this.range,
        h(
          "span",
          { class: "legend" },
          h("i", { class: "swatch model" }),
          "model",
          h("i", { class: "swatch cell" }),
          "cell",
          h("i", { class: "swatch wait" }),
          "starting or waiting",
          h("i", { class: "swatch failed" }),
          "failed",
        ),
      ),
      this.chart,
      this.axis,
      this.list.element,
    );
    this.element.addEventListener("keydown", (event) => {
      const width = this.view[1] - this.view[0];
      if (event.key === "+") this.zoom(0.5);
      else if (event.key === "-") this.zoom(2);
      else if (event.key === "ArrowRight") this.setView(this.view[0] + width / 4, this.view[1] + width / 4);
      else if (event.key === "ArrowLeft") this.setView(this.view[0] - width / 4, this.view[1] - width / 4);
      else return;
      event.preventDefault();
    });
    this.setView(0, this.end);
  }

  private zoom(factor: number): void {
    const [from, to] = this.view;
    const half = ((to - from) * factor) / 2;
    this.setView((from + to) / 2 - half, (from + to) / 2 + half);
  }

  private setView(from: number, to: number): void {
    const width = Math.min(this.end, Math.max(to - from, 1e-4));
    const start = Math.max(0, Math.min(from, this.end - width));
    this.view = [start, start + width];
    this.rows = [];
    this.run.nodes.forEach((node, index) => {
      if (node.started <= start + width && node.started + elapsed(node, this.run) >= start) this.rows.push(index);
    });
    this.list.set(this.rows.length);
    this.range.textContent = `${seconds(start)} to ${seconds(start + width)}, ${plural(this.rows.length, "node")}`;
    const [step, ticks] = ticksOf(this.view);
    this.axis.replaceChildren(
      ...ticks.map((tick) => {
        const mark = h("span", {}, tickLabel(tick, step));
        mark.style.left = `${this.percentAt(tick)}%`;
        return mark;
      }),
    );
    const shade = this.chart.querySelector<HTMLElement>(".shade")!;
    shade.style.left = `${(start / this.end) * 100}%`;
    shade.style.width = `${(width / this.end) * 100}%`;
    shade.hidden = width >= this.end;
  }

  private percentAt(time: number): number {
    return ((time - this.view[0]) / (this.view[1] - this.view[0])) * 100;
  }

  private row(place: number): HTMLElement {
    const index = this.rows[place]!;
    const node = this.run.nodes[index]!;
    const bars = h("div", { class: "bars" });
    const add = (from: number, to: number, kind: string): void => {
      const left = Math.max(0, this.percentAt(from));
      const right = Math.min(100, this.percentAt(to));
      if (right < 0 || left > 100) return;
      const bar = h("i", { class: `span ${kind}` });
      bar.style.left = `${left}%`;
      bar.style.width = `max(2px, ${Math.max(0, right - left)}%)`;
      bars.append(bar);
    };
    add(node.started, node.started + elapsed(node, this.run), node.ok === false ? "whole failed" : "whole");
    for (const [from, to, kind] of spansOf(node, this.run)) add(from, to, kind);
    const label = h(
      "a",
      { class: "name", href: this.href(index) },
      h("span", { class: `dot ${nodeStatus(node, this.run).kind}` }),
      isolated(node.id, "id"),
      isolated(node.model, "muted"),
    );
    return h(
      "div",
      { class: "wrow", role: "listitem" },
      label,
      bars,
      h("span", { class: "num" }, seconds(elapsed(node, this.run))),
    );
  }

  /** A chart of concurrent model calls. Dragging on it zooms. */
  private concurrency(): HTMLElement {
    const changes: [number, number][] = [];
    for (const node of this.run.nodes)
      for (const [from, to, kind] of spansOf(node, this.run)) if (kind !== "cell") changes.push([from, 1], [to, -1]);
    changes.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    const peaks = new Array<number>(BUCKETS).fill(0);
    let running = 0;
    let bucket = 0;
    for (const [time, change] of changes) {
      const at = Math.max(0, Math.min(BUCKETS - 1, Math.floor((time / this.end) * BUCKETS)));
      while (bucket < at) peaks[++bucket] = running;
      running += change;
      peaks[bucket] = Math.max(peaks[bucket]!, running);
    }
    const peak = peaks.reduce((a, b) => Math.max(a, b), 0);
    const top = (value: number): number => 40 - (peak ? value / peak : 0) * 38;
    const steps = peaks.map((value, i) => `L${i} ${top(value)} L${i + 1} ${top(value)}`).join(" ");
    const path = `M0 40 ${steps} L${BUCKETS} 40 Z`;
    const drawing = svg("svg", {
      viewBox: `0 0 ${BUCKETS} 40`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `Up to ${plural(peak, "concurrent model call")}`,
    });
    drawing.append(svg("path", { d: path }));
    const area = h("div", { class: "area" }, drawing, h("div", { class: "shade", hidden: true }));
    let from: number | null = null;
    const timeAt = (event: PointerEvent): number => {
      const box = area.getBoundingClientRect();
      return ((event.clientX - box.left) / box.width) * this.end;
    };
    area.addEventListener("pointerdown", (event) => {
      from = timeAt(event);
      area.setPointerCapture(event.pointerId);
    });
    area.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const to = timeAt(event);
      if (Math.abs(to - from) > this.end / 200) this.setView(Math.min(from, to), Math.max(from, to));
      from = null;
    });
    return h(
      "div",
      { class: "chart" },
      h("span", { class: "muted" }, `peak: ${plural(peak, "concurrent call")}`),
      area,
    );
  }
}

/** The model calls and cells of a node. */
function spansOf(node: Node, run: Run): Span[] {
  return node.turns.flatMap((turn) => turn.entries.flatMap((entry): Span[] => spanOf(entry, run)));
}

function spanOf(entry: Entry, run: Run): Span[] {
  switch (entry.kind) {
    case "reply":
      return [[entry.ended - entry.seconds, entry.ended, "model"]];
    case "failure":
      return [[entry.ended - entry.seconds, entry.ended, "failed"]];
    case "cell":
      return [[entry.started, entry.ended ?? run.latest, "cell"]];
    default:
      return [];
  }
}

function tickLabel(tick: number, step: number): string {
  if (tick === 0) return "0";
  if (tick >= 60) return seconds(tick);
  if (step >= 1) return `${tick.toFixed(0)} s`;
  const digits = Math.ceil(-Math.log10(step) - 1e-9);
  return tick >= 1 ? `${tick.toFixed(digits)} s` : `${(tick * 1000).toFixed(Math.max(0, digits - 3))} ms`;
}

function ticksOf([from, to]: [number, number]): [number, number[]] {
  const rough = (to - from) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough)!;
  const ticks: number[] = [];
  for (let tick = Math.ceil(from / step) * step; tick <= to && ticks.length < 12; tick += step) ticks.push(tick);
  return [step, ticks];
}
