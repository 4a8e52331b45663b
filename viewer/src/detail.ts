// The details of one node: prompt, answer and its origin, turns.
import type { Cell, Entry, Node, Ref, Reply, Run, Tool, Turn } from "./data";
import { button, h, isolated, link } from "./dom";
import { bytes, count, dollars, elapsed, nodeStatus, plural, seconds, tokens } from "./format";
import type { Links } from "./links";
import { answerBlock, origin, overview, section } from "./overview";
import { textBlock } from "./text";

const INITIAL_CALLS = 10;
const MAX_CALLS = 500;

export function nodeDetail(run: Run, index: number, links: Links): HTMLElement {
  const node = run.nodes[index]!;
  const status = nodeStatus(node, run);
  const body = h("article", { class: "detail" });
  body.append(
    h(
      "header",
      {},
      node.parent >= 0 ? h("nav", { class: "crumbs", "aria-label": "Called by" }, ...crumbs(run, index, links)) : null,
      h(
        "h2",
        {},
        node.rlm ? "RLM " : "Call ",
        isolated(node.id),
        " ",
        badge(status.kind, status.word),
        " ",
        node.fromJournal ? h("span", { class: "badge" }, "from the journal") : null,
      ),
      facts(run, node),
    ),
  );
  if (index === 0) body.append(...overview(run, links));
  else {
    if (node.prompt)
      body.append(
        section(
          "Prompt",
          textBlock(node.prompt, { label: "Prompt", className: "prompt" }),
          inContext(run, index, links),
        ),
      );
    if (node.answer)
      body.append(
        section(
          node.ok === false ? "Error" : "Answer",
          node.ok === false
            ? textBlock(node.answer, { className: "error", label: "Error" })
            : answerBlock(node, node.answer),
        ),
      );
    if (node.origin) body.append(origin(run, index, links));
  }
  for (const turn of node.turns) body.append(turnSection(run, index, turn, links));
  return body;
}

function inContext(run: Run, index: number, links: Links): HTMLElement {
  const slices = run.context?.slices.filter(([call]) => call === index) ?? [];
  const own = slices.filter(([, , , offset]) => offset < 0);
  const prompted = slices.filter(([, , , offset]) => offset >= 0);
  const places = (some: typeof slices): (globalThis.Node | string)[] =>
    some.flatMap(([, start, end], i) => [i ? ", " : "", link(links.context(start), `${count(start)}-${count(end)}`)]);
  return h(
    "p",
    {},
    own.length > 0 && h("span", {}, "Its own context is characters ", ...places(own), " of the root's. "),
    prompted.length > 0 && h("span", {}, "Contains context characters ", ...places(prompted), "."),
  );
}

function* crumbs(run: Run, index: number, links: Links): Generator<globalThis.Node | string> {
  const above: number[] = [];
  for (let at = run.nodes[index]!.parent; at >= 0; at = run.nodes[at]!.parent) above.unshift(at);
  for (const at of above) {
    yield link(links.node(at), isolated(run.nodes[at]!.id));
    yield " › ";
  }
  const by = run.nodes[index]!.parent;
  for (const entry of run.nodes[by]!.turns.flatMap((turn) => turn.entries))
    if (entry.kind === "cell" && entry.calls.includes(index))
      yield link(links.node(by, `c${entry.number}`), `cell ${entry.number}`);
}

function facts(run: Run, node: Node): HTMLElement {
  const list = h("dl", { class: "facts" });
  const add = (name: string, value: globalThis.Node | string): void => {
    list.append(h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  };
  add("Model", isolated(node.model || "unknown"));
  add("Time", seconds(elapsed(node, run)));
  add("Cost", dollars(node.totalUsage[5]));
  const [calls, input, output, cached, reasoning] = node.totalUsage;
  add("Model calls", calls === node.ownUsage[0] ? count(calls) : `${count(calls)} (${count(node.ownUsage[0])} own)`);
  const tokenCounts = [`${count(input)} in`, `${count(output)} out`];
  if (cached) tokenCounts.push(`${count(cached)} cached`);
  if (reasoning) tokenCounts.push(`${count(reasoning)} reasoning`);
  add("Tokens", tokenCounts.join(", "));
  if (node.contextSize !== null) add("Context", isolated(`${node.contextType} of length ${count(node.contextSize)}`));
  if (node.rlm) add("Remaining depth", String(node.depth));
  if (node.sandbox) add("Sandbox", isolated(node.sandbox.slice(0, 12), "mono"));
  if (node.batch) add("Batch", String(node.batch));
  return list;
}

function turnSection(run: Run, index: number, turn: Turn, links: Links): HTMLElement {
  const entries = turn.entries.map((entry) => entryBlock(run, index, entry, links));
  if (turn.limit === 0 && turn.number === 0) return h("section", { class: "turn" }, ...entries);
  const title = turn.isFinal ? "Final turn (limit reached)" : `Turn ${turn.number}`;
  return h(
    "section",
    { class: "turn", "data-part": `t${turn.number}` },
    h(
      "h3",
      {},
      title,
      turn.isFinal || turn.limit === null ? null : h("span", { class: "muted" }, ` of ${turn.limit}`),
      h("span", { class: "muted at" }, `at ${seconds(turn.started)}`),
    ),
    ...(entries.length
      ? entries
      : [h("p", { class: "muted" }, "No reply: a limit blocked the request, or the run ended here.")]),
  );
}

function entryBlock(run: Run, index: number, entry: Entry, links: Links): HTMLElement {
  const muted = (text: string): HTMLElement => h("span", { class: "muted" }, text);
  switch (entry.kind) {
    case "reply":
      return reply(run.nodes[index]!, entry);
    case "failure":
      return withHead(
        [badge("bad", "request failed"), isolated(entry.model, "muted"), muted(seconds(entry.seconds))],
        textBlock(entry.error, { className: "error" }),
      );
    case "lost":
      return withHead(
        [
          badge("bad", "sandbox lost"),
          muted("replaced by"),
          isolated(entry.sandbox.slice(0, 12), "mono"),
          muted(entry.restored ? "its cells ran again" : "only the context survived"),
        ],
        textBlock(entry.reason, { className: "error" }),
      );
    case "compacted":
      return withHead(
        [badge("limit", "summarized"), muted(`this summary replaced the older of ${count(entry.messages)} messages`)],
        textBlock(entry.summary),
      );
    case "diverged":
      return withHead([
        badge("limit", "diverged"),
        muted(`call ${count(entry.call)} differs from the recording; continuing with live calls`),
      ]);
    case "question":
      return withHead(
        [
          h("span", { class: "who" }, "Further question"),
          entry.contextBytes !== null && muted(`with a context of ${bytes(entry.contextBytes)}`),
        ],
        textBlock(entry.query, { label: "Further question", className: "prompt" }),
      );
    case "limits":
      return withHead([
        badge("limit", "limits raised"),
        ...Object.entries(entry.limits).map(([name, value]) =>
          isolated(`${name}: ${value === null ? "none" : count(value)}`, "muted"),
        ),
      ]);
    case "cell":
      return cell(run, index, entry, links);
  }
}

function withHead(head: (HTMLElement | false)[], ...body: HTMLElement[]): HTMLElement {
  return h("div", { class: "entry" }, h("div", { class: "entry-head" }, ...head), ...body);
}

function badge(kind: string, text: string): HTMLElement {
  return h("span", { class: `badge ${kind}` }, text);
}

function reply(node: Node, entry: Reply): HTMLElement {
  const head = h(
    "div",
    { class: "entry-head" },
    h("span", { class: "who" }, "Reply"),
    isolated(entry.model, "muted"),
    h("span", { class: "muted" }, [seconds(entry.seconds), tokens(entry.usage), dollars(entry.usage[5])].join(" · ")),
  );
  if (entry.finish !== "stop")
    head.append(
      h(
        "span",
        { class: "badge limit" },
        isolated(entry.finish === "length" ? "cut off at the token limit" : entry.finish),
      ),
    );
  if (entry.replayed) head.append(h("span", { class: "badge" }, "from the journal"));
  const box = h("div", { class: "entry" }, head);
  const { thinking } = entry;
  if (thinking) box.append(collapsible(`Thinking (${plural(thinking[2], "character")})`, () => textBlock(thinking)));
  if (node.rlm) {
    if (entry.prose[2]) box.append(textBlock(entry.prose, { className: "prose" }));
    box.append(collapsible("Raw reply", () => textBlock(entry.text)));
  }
  if (entry.sent.length)
    box.append(
      collapsible(`Prompt as sent (${plural(entry.sent.length, "message")})`, () =>
        h(
          "div",
          {},
          ...entry.sent.map(([role, text]) =>
            h("div", {}, h("div", { class: "entry-head" }, isolated(role, "who")), textBlock(text)),
          ),
        ),
      ),
    );
  return box;
}

function collapsible(title: string, make: () => HTMLElement): HTMLElement {
  const box = h("details", {}, h("summary", {}, title));
  box.addEventListener("toggle", () => box.append(make()), { once: true });
  return box;
}

function cell(run: Run, index: number, entry: Cell, links: Links): HTMLElement {
  const outcome = entry.outcome ?? (run.ended === null ? "unfinished" : "stopped");
  const kind = outcome === "ok" ? "ok" : entry.outcome === null ? "open" : "bad";
  const head = h(
    "div",
    { class: "entry-head" },
    h("span", { class: "who" }, `Cell ${entry.number}`),
    h("span", { class: `badge ${kind}` }, isolated(outcome)),
  );
  if (entry.rolledBack) head.append(badge("limit", "rolled back"));
  if (entry.snapshot === false) head.append(badge("limit", "no snapshot"));
  if (entry.answer != null) head.append(badge("ok", "gave the answer"));
  const total = seconds((entry.ended ?? run.latest) - entry.started);
  const own = entry.ownSeconds === undefined ? "" : ` (${seconds(entry.ownSeconds)} excluding waits)`;
  head.append(h("span", { class: "muted" }, total + own));
  const box = h(
    "div",
    { class: "entry cell", "data-part": `c${entry.number}` },
    head,
    textBlock(entry.code, { code: true, label: `Code of cell ${entry.number}` }),
  );
  if (entry.calls.length) box.append(calls(run, entry.calls, links));
  if (entry.tools.length) box.append(tools(entry.tools));
  const output = (title: string, text: Ref | null | undefined, className: string, cut = 0): void => {
    if (text)
      box.append(
        h("div", { class: "out-head" }, title, cut ? h("span", { class: "muted" }, `, ${bytes(cut)} omitted`) : null),
        textBlock(text, { className }),
      );
  };
  output("Output", entry.stdout, "out", entry.cut?.[0]);
  output("Standard error", entry.stderr, "out", entry.cut?.[1]);
  output(entry.rolledBack ? "Error (all variables restored to before this cell)" : "Error", entry.error, "error");
  if (entry.answer != null && index !== 0) output("Answer", entry.answer, "answer");
  return box;
}

function calls(run: Run, numbers: number[], links: Links): HTMLElement {
  const rows = (some: number[]): HTMLElement[] =>
    some.map((index) => {
      const node = run.nodes[index]!;
      const status = nodeStatus(node, run);
      return h(
        "li",
        {},
        h(
          "a",
          { href: links.node(index) },
          dot(status.kind, status.word),
          isolated(node.id, "id"),
          isolated(node.label.replace(/\s+/g, " "), "label"),
          h("span", { class: "num" }, seconds(elapsed(node, run))),
        ),
      );
    });
  const limitLabel = `Show ${count(MAX_CALLS)} (the tree lists all)`;
  return list(plural(numbers.length, "call"), numbers, rows, limitLabel);
}

function tools(uses: Tool[]): HTMLElement {
  const rows = (some: Tool[]): HTMLElement[] =>
    some.map((tool) =>
      h(
        "li",
        { class: "tool" },
        h(
          "div",
          { class: "entry-head" },
          dot(tool.ok ? "ok" : "bad", tool.ok ? "succeeded" : "failed"),
          isolated(tool.name, "mono"),
          h("span", { class: "muted" }, seconds(tool.seconds)),
        ),
        textBlock(tool.arguments, { label: "Arguments" }),
      ),
    );
  const title = plural(uses.length, "host function call");
  return list(title, uses, rows, `Show ${count(MAX_CALLS)}`);
}

function dot(kind: string, word: string): HTMLElement {
  return h("span", { class: `dot ${kind}`, role: "img", "aria-label": word });
}

/** The first rows of a list, and a button for the rest. `limitLabel` labels it if the list exceeds `MAX_CALLS`. */
function list<T>(title: string, all: T[], rows: (some: T[]) => HTMLElement[], limitLabel: string): HTMLElement {
  const items = h("ul", { class: "calls" }, ...rows(all.slice(0, INITIAL_CALLS)));
  const box = h("div", { class: "calls-box" }, h("div", { class: "out-head" }, title), items);
  if (all.length > INITIAL_CALLS) {
    const more = button(all.length > MAX_CALLS ? limitLabel : `Show all ${count(all.length)}`, () => {
      items.append(...rows(all.slice(INITIAL_CALLS, MAX_CALLS)));
      more.remove();
    });
    box.append(more);
  }
  return box;
}
