// A text of the record as a block: unpacked when it comes into view, and as much of it as a reader asks for.
import type { Ref } from "./data";
import { textOf } from "./data";
import { button, h, shown } from "./dom";
import { count } from "./format";
import { highlighted } from "./python";

const FIRST_CHARS = 3_000;
const MORE_CHARS = 200_000;

const waiting = new WeakMap<Element, () => void>();
const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      waiting.get(entry.target)?.();
    }
  },
  { rootMargin: "600px" },
);

export interface TextOptions {
  code?: boolean;
  first?: number;
  className?: string;
  label?: string;
}

export function textBlock(ref: Ref, options: TextOptions = {}): HTMLElement {
  const body = h("pre", { class: "text" });
  const more = h("div", { class: "more" });
  const block = h(
    "div",
    {
      class: `block ${options.className ?? ""}`,
      ...(options.label ? { "aria-label": options.label, role: "group" } : {}),
    },
    body,
    more,
  );
  const length = ref[2];
  body.style.minHeight = `${Math.min(12, Math.ceil(length / 90))}lh`;
  let end = Math.min(length, options.first ?? FIRST_CHARS);

  async function fill(): Promise<void> {
    let text: string;
    try {
      text = await textOf(ref);
    } catch (error) {
      body.replaceChildren(h("em", {}, String(error instanceof Error ? error.message : error)));
      return;
    }
    if (end < text.length && isLow(text, end)) end++; // not between the halves of a character
    const part = text.slice(0, end);
    body.style.minHeight = "";
    body.replaceChildren(options.code ? highlighted(part) : shown(part));
    if (options.code) block.classList.add("code");
    if (body.scrollHeight > body.clientHeight) body.tabIndex = 0; // it scrolls: with keys, too
    more.replaceChildren();
    if (end < text.length) {
      const next = Math.min(text.length, end + MORE_CHARS);
      const label =
        next === text.length
          ? `Show all ${count(text.length)} characters`
          : `Show ${count(next)} of ${count(text.length)} characters`;
      more.append(
        button(label, () => {
          end = next;
          void fill();
        }),
      );
    }
  }

  waiting.set(block, () => void fill());
  observer.observe(block);
  return block;
}

function isLow(text: string, index: number): boolean {
  const unit = text.charCodeAt(index);
  return unit >= 0xdc00 && unit < 0xe000;
}

/** Unpack what has not come into view, so that it is printed too. */
export function fillAll(element: HTMLElement): void {
  for (const block of element.querySelectorAll(".block")) {
    observer.unobserve(block);
    waiting.get(block)?.();
    waiting.delete(block);
  }
}
