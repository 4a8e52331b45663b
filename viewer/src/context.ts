// The context: type and size, the slices that calls received, and the text around any offset.
import type { Context, Run } from "./data";
import { textOf } from "./data";
import { button, escapeHidden, h, isolated, link, svg } from "./dom";
import { bytes, count, plural } from "./format";
import type { Links } from "./links";
import { VirtualList } from "./virtual";

const WINDOW_CHARS = 4_000;
const MAP_WIDTH = 1_000;

export class ContextView {
  readonly element = h("div", { class: "context" });
  private readonly text = h("pre", {
    class: "text",
    tabindex: "0",
    "aria-label": "Context text",
    role: "group",
  });
  private readonly position = h("span", { class: "muted", role: "status" });
  private offset = 0;

  constructor(
    private readonly run: Run,
    private readonly links: Links,
  ) {
    const root = run.nodes[0]!;
    const shape =
      root.contextSize === null
        ? bytes(run.contextBytes)
        : `${root.contextType} of length ${count(root.contextSize)}, ${bytes(run.contextBytes)}`;
    this.element.append(h("p", {}, "Variable ", h("code", {}, "context"), " of the root: ", isolated(shape)));
    const { context } = run;
    if (!context) {
      this.element.append(
        h(
          "p",
          { class: "muted" },
          "This page does not include its text. To add it: ",
          h("code", {}, "rlm view RUN --context FILE"),
        ),
      );
      return;
    }
    const used = coveredChars(context);
    const slices = plural(context.slices.length, "slice");
    const share = ((used / Math.max(1, context.chars)) * 100).toFixed(1);
    this.element.append(
      h(
        "p",
        {},
        context.slices.length
          ? `${slices} found in the prompts and contexts of calls, ` +
              `covering ${count(used)} of ${plural(context.chars, "character")} (${share}%).`
          : "No slices found in the prompts and contexts of calls.",
      ),
      this.map(context),
      h(
        "div",
        { class: "toolbar" },
        button("Previous", () => this.go(this.offset - WINDOW_CHARS)),
        button("Next", () => this.go(this.offset + WINDOW_CHARS)),
        this.position,
      ),
      h("div", { class: "block out" }, this.text),
    );
    if (context.slices.length) {
      const list = new VirtualList(28, (index) => this.slice(context.slices[index]!), {
        class: "slices",
        role: "list",
        tabindex: "0",
        "aria-label": "Slices by call",
      });
      list.set(context.slices.length);
      this.element.append(h("h2", {}, "Slices by call"), list.element);
    }
    void this.show(0);
  }

  private go(offset: number): void {
    location.hash = this.links.context(Math.max(0, offset));
  }

  /** Show the text around an offset. Marks the word there, and colours the slice around it. */
  async show(offset: number): Promise<void> {
    const { context } = this.run;
    if (!context) return;
    this.offset = Math.min(Math.max(0, offset), Math.max(0, context.chars - 1));
    const from = Math.max(0, this.offset - 400);
    const end = Math.min(context.chars, from + WINDOW_CHARS);
    let text = "";
    for (let part = Math.floor(from / context.partChars); part * context.partChars < end; part++) {
      const ref = context.parts[part];
      if (!ref) break;
      const characters = await textOf(ref);
      const partStart = part * context.partChars;
      text += charactersBetween(characters, Math.max(0, from - partStart), end - partStart);
    }
    const slice = context.slices.find(([, start, stop]) => start <= this.offset && this.offset < stop);
    const word = /^\S{0,40}/.exec(charactersBetween(text, this.offset - from, end - from))![0];
    const place = [this.offset, this.offset + Math.max(1, Array.from(word).length)] as const;
    const edges = [from, slice?.[1] ?? from, place[0], place[1], slice?.[2] ?? end, end];
    const cuts = [...new Set(edges.filter((edge) => from <= edge && edge <= end))].sort((a, b) => a - b);
    this.text.replaceChildren(
      ...cuts.slice(1).map((to, i) => {
        const start = cuts[i]!;
        const part = escapeHidden(charactersBetween(text, start - from, to - from));
        if (place[0] <= start && to <= place[1]) return h("mark", {}, part);
        return slice && slice[1] <= start && to <= slice[2] ? h("span", { class: "in-slice" }, part) : part;
      }),
    );
    this.position.textContent = `characters ${count(from)} to ${count(end)} of ${count(context.chars)}`;
  }

  private slice([node, start, end, offset]: [number, number, number, number]): HTMLElement {
    return h(
      "div",
      { class: "slice", role: "listitem" },
      link(this.links.node(node), "call ", isolated(this.run.nodes[node]!.id)),
      link(this.links.context(start), `${count(start)}-${count(end)}`),
      h("span", { class: "muted" }, offset < 0 ? "as its context" : `at ${count(offset)} in its prompt`),
    );
  }

  private map(context: Context): HTMLElement {
    const scale = MAP_WIDTH / Math.max(1, context.chars);
    const path = context.slices
      .map(([, start, end]) => {
        const width = Math.max(1, (end - start) * scale).toFixed(1);
        return `M${(start * scale).toFixed(1)} 0h${width}v10h-${width}z`;
      })
      .join("");
    const drawing = svg("svg", {
      viewBox: `0 0 ${MAP_WIDTH} 10`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": "Positions of the slices in the context",
    });
    drawing.append(svg("path", { d: path }));
    const map = h("div", { class: "map", title: "Click to show the text there" }, drawing);
    map.addEventListener("click", (event) => {
      const box = map.getBoundingClientRect();
      this.go(Math.floor(((event.clientX - box.left) / box.width) * context.chars));
    });
    return map;
  }
}

/** A part of a text by code points, as Python counts characters. */
function charactersBetween(text: string, from: number, to: number): string {
  return /[\ud800-\udbff][\udc00-\udfff]/.test(text) ? Array.from(text).slice(from, to).join("") : text.slice(from, to);
}

function coveredChars(context: Context): number {
  let sum = 0;
  let reached = 0;
  for (const [, start, end] of [...context.slices].sort((a, b) => a[1] - b[1])) {
    sum += Math.max(0, end - Math.max(start, reached));
    reached = Math.max(reached, end);
  }
  return sum;
}
