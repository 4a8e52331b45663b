// Elements and text nodes. Text never becomes markup here; texts of runs also pass through `escapeHidden`.

type Child = globalThis.Node | string | null | undefined | false;
type Props = Record<string, string | boolean | ((event: never) => void) | null | undefined>;

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name, value as EventListener);
    else if (value === true) element.setAttribute(name, "");
    else if (typeof value === "string") element.setAttribute(name, value);
  }
  element.append(...children.filter((child): child is globalThis.Node | string => child != null && child !== false));
  return element;
}

export function svg(tag: string, props: Record<string, string>): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
  return element;
}

// Controls, direction marks, zero-width and tag characters, lone surrogates: invisible or misleading when rendered.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]|\p{Surrogate}|[\u{e0000}-\u{e0fff}]/gu;

function escapeCharacter(character: string): string {
  const code = character.codePointAt(0)!;
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
}

/** A text as nodes, with hidden characters as visible escapes. */
export function escapeHidden(text: string): DocumentFragment {
  const fragment = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match[0] === "\r" && text[match.index + 1] === "\n") continue; // a Windows line end
    if (match.index > from) fragment.append(text.slice(from, match.index));
    fragment.append(h("span", { class: "hidden-char" }, escapeCharacter(match[0])));
    from = match.index + match[0].length;
  }
  if (from < text.length) fragment.append(text.slice(from));
  return fragment;
}

/** A text as an inline element whose text direction cannot affect its surroundings. */
export function isolated(text: string, className = ""): HTMLElement {
  return h("bdi", { class: className || null }, escapeHidden(text));
}

export function link(href: string, ...children: Child[]): HTMLAnchorElement {
  return h("a", { href }, ...children);
}

export function button(label: string, onClick: () => void, props: Props = {}): HTMLButtonElement {
  return h("button", { type: "button", click: onClick, ...props }, label);
}
