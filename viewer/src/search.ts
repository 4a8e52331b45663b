// Search in all texts of a run. They are unpacked one piece after the other, and forgotten again.
import type { Ref, Run } from "./data";
import { textOf } from "./data";
import { h, said, shown } from "./dom";
import { count, plural } from "./format";
import type { Links } from "./links";
import { VirtualList } from "./virtual";

const MOST_HITS = 1_000;
const AROUND = 60;

interface Place {
  name: string;
  ref: Ref;
  href: (at: number) => string;
}
interface Hit {
  place: Place;
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
      "aria-label": "Places found",
    });
    this.element = h("div", { class: "search" }, this.input, this.status, this.list.element);
    this.input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = window.setTimeout(() => void this.search(this.input.value), 200);
    });
  }

  private async search(wanted: string): Promise<void> {
    const search = ++this.current;
    this.hits = [];
    this.list.set(0);
    if (!wanted) {
      this.status.textContent = "";
      return;
    }
    const pattern = new RegExp(wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi");
    const places = placesOf(this.run, this.links).sort((a, b) => a.ref[0] - b.ref[0] || a.ref[1] - b.ref[1]);
    let drawn = performance.now();
    for (const [number, place] of places.entries()) {
      const text = await textOf(place.ref);
      if (search !== this.current) return; // another search has begun
      for (const match of text.matchAll(pattern)) {
        this.hits.push({
          place,
          before: text.slice(Math.max(0, match.index - AROUND), match.index),
          found: match[0],
          after: text.slice(match.index + match[0].length, match.index + match[0].length + AROUND),
          at: match.index,
        });
        if (this.hits.length >= MOST_HITS) break;
      }
      if (performance.now() - drawn > 100) {
        this.status.textContent = `${plural(this.hits.length, "place")}, ${Math.round(((number + 1) / places.length) * 100)} % searched`;
        this.list.set(this.hits.length);
        await new Promise((resolve) => setTimeout(resolve));
        drawn = performance.now();
      }
      if (this.hits.length >= MOST_HITS) break;
    }
    this.status.textContent =
      this.hits.length >= MOST_HITS ? `The first ${count(MOST_HITS)} places` : plural(this.hits.length, "place");
    this.list.set(this.hits.length);
  }

  private row(hit: Hit): HTMLElement {
    return h(
      "div",
      { class: "hit", role: "listitem" },
      h(
        "a",
        { href: hit.place.href(hit.at) },
        shown(hit.place.name),
        h("span", { class: "muted" }, ` at ${count(hit.at)}`),
      ),
      h("div", { class: "snippet" }, said(hit.before), h("mark", {}, shown(hit.found)), said(hit.after)),
    );
  }
}

/** Each text once, with where it stands. */
function placesOf(run: Run, links: Links): Place[] {
  const known = new Set<string>();
  const places: Place[] = [];
  const add = (name: string, ref: Ref | null | undefined, href: (at: number) => string): void => {
    const key = ref ? `${ref[0]}/${ref[1]}` : "";
    if (!ref || known.has(key)) return;
    known.add(key);
    places.push({ name, ref, href });
  };
  run.nodes.forEach((node, index) => {
    const here = (part?: string) => () => links.node(index, part);
    add(`${node.id} prompt`, node.prompt, here());
    add(`${node.id} answer`, node.answer, here());
    for (const turn of node.turns)
      for (const entry of turn.entries) {
        const inTurn = here(`t${turn.number}`);
        switch (entry.kind) {
          case "reply":
            add(`${node.id} reply in turn ${turn.number}`, entry.text, inTurn);
            for (const [role, text] of entry.sent) add(`${node.id} sent as ${role}`, text, inTurn);
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
            const inCell = here(`c${entry.number}`);
            add(`${node.id} code of cell ${entry.number}`, entry.code, inCell);
            add(`${node.id} output of cell ${entry.number}`, entry.stdout, inCell);
            add(`${node.id} standard error of cell ${entry.number}`, entry.stderr, inCell);
            add(`${node.id} error of cell ${entry.number}`, entry.error, inCell);
            add(`${node.id} answer of cell ${entry.number}`, entry.answer, inCell);
            for (const tool of entry.tools) add(`${node.id} arguments in cell ${entry.number}`, tool.arguments, inCell);
          }
        }
      }
  });
  const { context } = run;
  context?.parts.forEach((part, number) => {
    places.push({ name: "context", ref: part, href: (at) => links.context(number * context.partChars + at) });
  });
  return places;
}
