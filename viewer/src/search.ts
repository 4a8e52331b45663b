// Searches all texts of a run, one unpacked piece at a time.
import type { Ref, Run } from "./data";
import { textOf } from "./data";
import { escapeHidden, h, isolated } from "./dom";
import { count, plural } from "./format";
import type { Links } from "./links";
import { VirtualList } from "./virtual";

const MAX_MATCHES = 1_000;
const RENDER_INTERVAL_MS = 100;
const TYPING_PAUSE_MS = 200;
const SNIPPET_CHARS = 60;

interface SearchedText {
  name: string;
  ref: Ref;
  href: (at: number) => string;
}
interface Hit {
  source: SearchedText;
  before: string;
  found: string;
  after: string;
  at: number;
}

export class Search {
  readonly element: HTMLElement;
  readonly input = h("input", {
    type: "search",
    placeholder: "Search all texts of this run",
    "aria-label": "Search all texts of this run",
    autocomplete: "off",
    spellcheck: "false",
  });
  private readonly status = h("p", { class: "muted", role: "status" });
  private readonly list: VirtualList;
  private hits: Hit[] = [];
  private current = 0;
  private timer = 0;

  constructor(
    private readonly run: Run,
    private readonly links: Links,
  ) {
    this.list = new VirtualList(52, (index) => this.row(this.hits[index]!), {
      class: "hits",
      role: "list",
      "aria-label": "Matches",
    });
    this.element = h("div", { class: "search" }, this.input, this.status, this.list.element);
    this.input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = window.setTimeout(() => void this.search(this.input.value), TYPING_PAUSE_MS);
    });
  }

  private async search(query: string): Promise<void> {
    const search = ++this.current;
    this.hits = [];
    this.list.set(0);
    if (!query) {
      this.status.textContent = "";
      return;
    }
    const pattern = new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi");
    const sources = searchedTexts(this.run, this.links).sort((a, b) => a.ref[0] - b.ref[0] || a.ref[1] - b.ref[1]);
    let renderedAt = performance.now();
    for (const [number, source] of sources.entries()) {
      const text = await textOf(source.ref);
      if (search !== this.current) return; // a newer search replaced this one
      for (const match of text.matchAll(pattern)) {
        this.hits.push({
          source,
          before: text.slice(Math.max(0, match.index - SNIPPET_CHARS), match.index),
          found: match[0],
          after: text.slice(match.index + match[0].length, match.index + match[0].length + SNIPPET_CHARS),
          at: match.index,
        });
        if (this.hits.length >= MAX_MATCHES) break;
      }
      if (performance.now() - renderedAt > RENDER_INTERVAL_MS) {
        const percent = Math.round(((number + 1) / sources.length) * 100);
        this.status.textContent = `${plural(this.hits.length, "match", "matches")}, ${percent}% searched`;
        this.list.set(this.hits.length);
        await new Promise((resolve) => setTimeout(resolve));
        renderedAt = performance.now();
      }
      if (this.hits.length >= MAX_MATCHES) break;
    }
    this.status.textContent =
      this.hits.length >= MAX_MATCHES
        ? `First ${count(MAX_MATCHES)} matches`
        : plural(this.hits.length, "match", "matches");
    this.list.set(this.hits.length);
  }

  private row(hit: Hit): HTMLElement {
    return h(
      "div",
      { class: "hit", role: "listitem" },
      h(
        "a",
        { href: hit.source.href(hit.at) },
        escapeHidden(hit.source.name),
        h("span", { class: "muted" }, ` at ${count(hit.at)}`),
      ),
      h("div", { class: "snippet" }, isolated(hit.before), h("mark", {}, escapeHidden(hit.found)), isolated(hit.after)),
    );
  }
}

/** Each text once, with a name and a link. */
function searchedTexts(run: Run, links: Links): SearchedText[] {
  const known = new Set<string>();
  const texts: SearchedText[] = [];
  const add = (name: string, ref: Ref | null | undefined, href: (at: number) => string): void => {
    const key = ref ? `${ref[0]}/${ref[1]}` : "";
    if (!ref || known.has(key)) return;
    known.add(key);
    texts.push({ name, ref, href });
  };
  run.nodes.forEach((node, index) => {
    const linkTo = (part?: string) => () => links.node(index, part);
    add(`${node.id} prompt`, node.prompt, linkTo());
    add(`${node.id} answer`, node.answer, linkTo());
    for (const turn of node.turns)
      for (const entry of turn.entries) {
        const inTurn = linkTo(`t${turn.number}`);
        switch (entry.kind) {
          case "reply":
            add(`${node.id} thinking in turn ${turn.number}`, entry.thinking, inTurn);
            add(`${node.id} reply in turn ${turn.number}`, entry.text, inTurn);
            for (const [role, text] of entry.sent) add(`${node.id} ${role} message as sent`, text, inTurn);
            break;
          case "failure":
            add(`${node.id} failed request`, entry.error, inTurn);
            break;
          case "lost":
            add(`${node.id} lost sandbox`, entry.reason, inTurn);
            break;
          case "compacted":
            add(`${node.id} summary`, entry.summary, inTurn);
            break;
          case "question":
            add(`${node.id} further question`, entry.query, inTurn);
            break;
          case "cell": {
            const inCell = linkTo(`c${entry.number}`);
            add(`${node.id} code of cell ${entry.number}`, entry.code, inCell);
            add(`${node.id} output of cell ${entry.number}`, entry.stdout, inCell);
            add(`${node.id} standard error of cell ${entry.number}`, entry.stderr, inCell);
            add(`${node.id} error of cell ${entry.number}`, entry.error, inCell);
            add(`${node.id} answer of cell ${entry.number}`, entry.answer, inCell);
            for (const tool of entry.tools)
              add(`${node.id} host function arguments in cell ${entry.number}`, tool.arguments, inCell);
          }
        }
      }
  });
  const { context } = run;
  context?.parts.forEach((part, number) => {
    texts.push({ name: "context", ref: part, href: (at) => links.context(number * context.partChars + at) });
  });
  return texts;
}
