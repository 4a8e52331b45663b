// What a run came to: question, answer and where that came from, limits, failures, models.
import type { Cell, Node, Ref, Run } from "./data";
import { h, link, said, shown } from "./dom";
import { count, dollars, plural, seconds, stopReason } from "./format";
import type { Links } from "./links";
import { textBlock } from "./text";

const MOST_REASONS = 5;

export function* overview(run: Run, links: Links): Generator<HTMLElement> {
  const root = run.nodes[0]!;
  if (run.query) yield section("Question", textBlock(run.query, { label: "Question" }));
  if (run.error) yield section("Why the run failed", textBlock(run.error, { className: "error" }));
  if (root.answer !== null) yield section("Answer", answerOf(root, root.answer));
  else if (run.ended === null)
    yield section(
      "Answer",
      h("p", { class: "muted" }, "The run had not ended when this page was written, or it was cut off."),
    );
  if (root.origin) yield origin(run, 0, links);
  if (run.resumed.length) yield resumed(run);
  yield limits(run, links);
  yield models(run);
}

/** An answer, or a word where a limit stopped the RLM before it had one. */
export function answerOf(node: Node, answer: Ref): HTMLElement {
  if (answer[2] > 0) return textBlock(answer, { className: "answer", label: "Answer" });
  const why = node.stop && node.stop !== "final" ? ` (${stopReason(node.stop)})` : "";
  return h("p", { class: "muted" }, `There is no answer: it is empty${why}.`);
}

export function section(title: string, ...children: (globalThis.Node | null)[]): HTMLElement {
  return h("section", {}, h("h3", {}, title), ...children);
}

export function origin(run: Run, index: number, links: Links): HTMLElement {
  const { turn, cell, finds } = run.nodes[index]!.origin!;
  const answered = run.nodes[index]!.turns.flatMap((each) => each.entries).find(
    (entry): entry is Cell => entry.kind === "cell" && entry.number === cell,
  );
  const called = answered?.calls.length ? [", which called ", ...nodeLinks(run, answered.calls, links)] : [];
  const given = h(
    "p",
    {},
    "Given in ",
    link(links.node(index, `t${turn}`), `turn ${turn}`),
    ", ",
    cell ? link(links.node(index, `c${cell}`), `cell ${cell}`) : "by the text of the reply",
    ...called,
    ".",
  );
  if (!finds.length) return section("Where the answer came from", given);
  const rows = finds.map((find) =>
    h(
      "tr",
      {},
      h("td", {}, said(find.piece, "mono")),
      h(
        "td",
        {},
        find.call >= 0 ? link(links.node(find.call), "call ", said(run.nodes[find.call]!.id)) : "output",
        " of ",
        link(links.node(index, `c${find.cell}`), `cell ${find.cell}`),
      ),
      h("td", { class: "num" }, count(find.at)),
      run.context && index === 0
        ? h("td", {}, ...find.context.flatMap((at, i) => [i ? ", " : "", link(links.context(at), count(at))]))
        : null,
    ),
  );
  return section(
    "Where the answer came from",
    given,
    h(
      "div",
      { class: "scroll-x" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", {}, "Words"),
            h("th", {}, "First read in"),
            h("th", { class: "num" }, "At"),
            run.context && index === 0 ? h("th", {}, "In the context at") : null,
          ),
        ),
        h("tbody", {}, ...rows),
      ),
    ),
    h("p", { class: "muted" }, "The same words, found by search: a hint, not a proof."),
  );
}

function resumed(run: Run): HTMLElement {
  const times = run.resumed.map(([at, recorded, inFlight]) =>
    h(
      "li",
      {},
      `After ${seconds(at)}, with ${plural(recorded, "recorded call")}`,
      inFlight ? `, ${count(inFlight)} of them without an answer.` : ".",
    ),
  );
  return section("Resumed after an interruption", h("ul", {}, ...times));
}

function limits(run: Run, links: Links): HTMLElement {
  const entries = run.nodes.flatMap((node) => node.turns.flatMap((turn) => turn.entries));
  const cells = entries.filter((entry): entry is Cell => entry.kind === "cell");
  const numbers = (test: (node: Node) => boolean): number[] => run.nodes.flatMap((node, i) => (test(node) ? [i] : []));
  const stopped = numbers((node) => node.stop !== null && node.stop !== "final");
  const failed = numbers((node) => node.parent >= 0 && node.ok === false);
  const lines: (HTMLElement | null)[] = [
    stopped.length
      ? h(
          "li",
          {},
          `${plural(stopped.length, "RLM")} stopped by a limit: `,
          ...nodeLinks(run, stopped, links, (node) => ` (${stopReason(node.stop!)})`),
        )
      : null,
    failed.length
      ? h(
          "li",
          {},
          `${plural(failed.length, "call")} without an answer: `,
          ...nodeLinks(run, failed, links),
          ...reasons(run, failed),
        )
      : null,
    ...(
      [
        ["failed request", entries.filter((entry) => entry.kind === "failure").length],
        ["cell rolled back", cells.filter((cell) => cell.rolledBack).length],
        ["cell with an exception", cells.filter((cell) => cell.outcome === "error").length],
        ["function of the host failed", cells.flatMap((cell) => cell.tools).filter((tool) => !tool.ok).length],
        ["sandbox lost", entries.filter((entry) => entry.kind === "lost").length],
        ["conversation made shorter", entries.filter((entry) => entry.kind === "compacted").length],
      ] as const
    ).map(([what, number]) => (number ? h("li", {}, number === 1 ? `1 ${what}` : `${count(number)} × ${what}`) : null)),
  ];
  const happened = lines.filter((line) => line !== null);
  const known = Object.entries(run.limits).filter(([, value]) => value !== null);
  return section(
    "Limits and what went wrong",
    run.stop && run.stop !== "final"
      ? h("p", {}, h("span", { class: "badge limit" }, stopReason(run.stop)), " ended the run.")
      : null,
    happened.length
      ? h("ul", {}, ...happened)
      : h("p", { class: "muted" }, "No limit was reached, and nothing failed."),
    known.length
      ? h(
          "dl",
          { class: "facts" },
          ...known.map(([name, value]) =>
            h(
              "div",
              {},
              h("dt", {}, said(name)),
              h("dd", {}, said(typeof value === "number" ? count(value) : JSON.stringify(value))),
            ),
          ),
        )
      : null,
    ...run.notes.map((note) => h("p", { class: "muted" }, shown(note))),
  );
}

/** What the callers were told, each sentence once: equal texts are stored once. */
function reasons(run: Run, failed: number[]): HTMLElement[] {
  const told = new Map<string, Ref>();
  for (const index of failed) {
    const ref = run.nodes[index]!.answer;
    if (ref) told.set(ref.join(), ref);
  }
  return [...told.values()].slice(0, MOST_REASONS).map((ref) => textBlock(ref, { first: 400, className: "error" }));
}

function nodeLinks(
  run: Run,
  numbers: number[],
  links: Links,
  more: (node: Node) => string = () => "",
): (globalThis.Node | string)[] {
  const few = numbers
    .slice(0, 12)
    .flatMap((index, i) => [
      i ? ", " : "",
      link(links.node(index), said(run.nodes[index]!.id)),
      more(run.nodes[index]!),
    ]);
  return numbers.length > 12 ? [...few, ` and ${count(numbers.length - 12)} more`] : few;
}

function models(run: Run): HTMLElement {
  const sums = new Map<
    string,
    [calls: number, input: number, output: number, dollars: number | null, seconds: number]
  >();
  for (const node of run.nodes)
    for (const turn of node.turns)
      for (const entry of turn.entries) {
        if (entry.kind !== "reply") continue;
        const sum = sums.get(entry.model) ?? [0, 0, 0, 0, 0];
        const cost = entry.usage[5];
        sums.set(entry.model, [
          sum[0] + entry.usage[0],
          sum[1] + entry.usage[1],
          sum[2] + entry.usage[2],
          sum[3] === null || cost === null ? null : sum[3] + cost,
          sum[4] + entry.seconds,
        ]);
      }
  const rows = [...sums].map(([name, [calls, input, output, cost, time]]) =>
    h(
      "tr",
      {},
      h("td", {}, said(name)),
      ...[count(calls), count(input), count(output), dollars(cost), seconds(time)].map((text) =>
        h("td", { class: "num" }, text),
      ),
    ),
  );
  return section(
    "Models",
    h(
      "div",
      { class: "scroll-x" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", {}, "Model"),
            ...["Calls", "Tokens in", "Tokens out", "Cost", "Time, added up"].map((text) =>
              h("th", { class: "num" }, text),
            ),
          ),
        ),
        h("tbody", {}, ...rows),
      ),
    ),
  );
}
