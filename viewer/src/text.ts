// A text as a block, unpacked when it scrolls into view. Long texts start truncated, with a button for more.
import type { Ref } from "./data";
import { textOf } from "./data";
import { button, escapeHidden, h } from "./dom";
import { count } from "./format";
import { highlighted } from "./python";

const INITIAL_CHARS = 3_000;
const CHARS_PER_CLICK = 200_000;

const pendingFills = new WeakMap<Element, () => Promise<void>>();
const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      void pendingFills.get(entry.target)?.();
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
  let end = Math.min(length, options.first ?? INITIAL_CHARS);

  async function fill(): Promise<void> {
    let text: string;
    try {
      text = await textOf(ref);
    } catch (error) {
      body.replaceChildren(h("em", {}, String(error instanceof Error ? error.message : error)));
      return;
    }
    if (end < text.length && isLowSurrogate(text, end)) end++; // do not split a surrogate pair
    const part = text.slice(0, end);
    body.style.minHeight = "";
    body.replaceChildren(options.code ? highlighted(part) : escapeHidden(part));
    if (options.code) block.classList.add("code");
    if (body.scrollHeight > body.clientHeight) body.tabIndex = 0; // makes it scrollable by keyboard
    more.replaceChildren();
    if (end < text.length) {
      const next = Math.min(text.length, end + CHARS_PER_CLICK);
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

  pendingFills.set(block, fill);
  observer.observe(block);
  return block;
}

function isLowSurrogate(text: string, index: number): boolean {
  const unit = text.charCodeAt(index);
  return unit >= 0xdc00 && unit < 0xe000;
}

/** Fill the blocks that did not scroll into view yet: printing needs all, and late fills move what is on screen. */
export async function fillAll(element: HTMLElement): Promise<void> {
  const fills = [...element.querySelectorAll(".block")].map((block) => {
    observer.unobserve(block);
    const fill = pendingFills.get(block);
    pendingFills.delete(block);
    return fill?.();
  });
  await Promise.all(fills);
}
