// A list that keeps only the rows in view in the document, so that ten thousand rows scroll as fast as ten.
import { h } from "./dom";
import { count } from "./format";

const OVERSCAN_ROWS = 8;
const MAX_PRINTED_ROWS = 1_000; // nobody reads more on paper

export class VirtualList {
  readonly element: HTMLElement;
  private readonly content: HTMLElement;
  private length = 0;
  private rows = new Map<number, HTMLElement>();
  private frame = 0;
  private printing = false;
  private readonly rest = h("div", { class: "muted" });

  constructor(
    readonly rowHeight: number,
    private readonly make: (index: number) => HTMLElement,
    props: Record<string, string>,
  ) {
    this.content = h("div", { class: "rows", role: "presentation" });
    this.element = h("div", props, this.content);
    this.element.addEventListener("scroll", () => this.scheduleRender(), { passive: true });
    new ResizeObserver(() => this.scheduleRender()).observe(this.element);
    window.addEventListener("beforeprint", () => this.setPrinting(true));
    window.addEventListener("afterprint", () => this.setPrinting(false));
  }

  /** Replace all rows. */
  set(length: number): void {
    this.length = length;
    this.content.style.height = `${length * this.rowHeight}px`;
    this.clear();
    this.render();
  }

  show(index: number): void {
    const top = index * this.rowHeight;
    const view = this.element;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + this.rowHeight > view.scrollTop + view.clientHeight)
      view.scrollTop = top + this.rowHeight - view.clientHeight;
    this.render();
  }

  get pageRows(): number {
    return Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight) - 1);
  }

  private clear(): void {
    for (const row of this.rows.values()) row.remove();
    this.rows.clear();
  }

  private scheduleRender(): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.render());
  }

  private render(): void {
    const { scrollTop, clientHeight } = this.element;
    const first = this.printing ? 0 : Math.max(0, Math.floor(scrollTop / this.rowHeight) - OVERSCAN_ROWS);
    const end = this.printing
      ? Math.min(this.length, MAX_PRINTED_ROWS)
      : Math.min(this.length, Math.ceil((scrollTop + clientHeight) / this.rowHeight) + OVERSCAN_ROWS);
    for (const [index, row] of this.rows) {
      if (index < first || index >= end) {
        row.remove();
        this.rows.delete(index);
      }
    }
    for (let index = first; index < end; index++) {
      if (this.rows.has(index)) continue;
      const row = this.make(index);
      row.style.top = `${index * this.rowHeight}px`;
      row.style.height = `${this.rowHeight}px`;
      this.rows.set(index, row);
      this.content.append(row);
    }
  }

  /** Print rows in document order, and say at the end how many are omitted. */
  private setPrinting(on: boolean): void {
    this.printing = on;
    this.clear();
    this.rest.remove();
    this.render();
    const left = this.length - MAX_PRINTED_ROWS;
    if (on && left > 0) {
      this.rest.textContent = `… and ${count(left)} more`;
      this.content.append(this.rest);
    }
  }
}
