// The overview of a run: question, answer and its origin, limits, failures, models.
import type { Cell, Node, Ref, Run } from "./data";
import { escapeHidden, h, isolated, link } from "./dom";
import { count, dollars, plural, seconds, stopReasonText } from "./format";
import type { Links } from "./links";
import { textBlock } from "./text";

const MAX_REASONS = 5;
const MAX_LINKS = 12;

export function* overview(run: Run, links: Links): Generator<HTMLElement> {
  const root = run.nodes[0]!;
  if (run.query) yield section("Question", textBlock(run.query, { label: "Question" }));
  if (run.error) yield section("Error", textBlock(run.error, { className: "error" }));
  if (root.answer !== null) yield section("Answer", answerBlock(root, root.answer));
  else if (run.ended === null)
    yield section(
      "Answer",
      h("p", { class: "muted" }, "The run was unfinished when this page was written."),
    );
  if (root.origin) yield origin(run, 0, links);
  if (run.resumptions.length) yield resumptions(run);
  yield limits(run, links);
  yield models(run);
}

/** An answer, or a note if a limit stopped the RLM before it had one. */
export function answerBlock(node: Node, answer: Ref): HTMLElement {
  if (answer[2] > 0) return textBlock(answer, { className: "answer", label: "Answer" });
  const why = node.stopReason && node.stopReason !== "final" ? ` (${stopReasonText(node.stopReason)})` : "";
  return h("p", { class: "muted" }, `The answer is empty${why}.`);
}

export function section(title: string, ...children: (globalThis.Node | null)[]): HTMLElement {
  return h("section", {}, h("h3", {}, title), ...children);
}

export function origin(run: Run, index: number, links: Links): HTMLElement {
  const { turn, cell, sources } = run.nodes[index]!.origin!;
  const answered = run.nodes[index]!.turns.flatMap((each) => each.entries).find(
    (entry): entry is Cell => entry.kind === "cell" && entry.number === cell,
  );
  const called = answered?.calls.length ? [", which called ", ...nodeLinks(run, answered.calls, links)] : [];
  const place = h(
    "p",
    {},
    "Given in ",
    link(links.node(index, `t${turn}`), `turn ${turn}`),
    ", ",
    cell ? link(links.node(index, `c${cell}`), `cell ${cell}`) : "in the text of the reply",
    ...called,
    ".",
  );
  if (!sources.length) return section("Where the answer came from", place);
  const rows = sources.map((source) =>
    h(
      "tr",
      {},
      h("td", {}, isolated(source.piece, "mono")),
      h(
        "td",
        {},
        source.call >= 0 ? link(links.node(source.call), "call ", isolated(run.nodes[source.call]!.id)) : "output",
        " of ",
        link(links.node(index, `c${source.cell}`), `cell ${source.cell}`),
      ),
      h("td", { class: "num" }, count(source.offset)),
      run.context && index === 0
        ? h("td", {}, ...source.context.flatMap((at, i) => [i ? ", " : "", link(links.context(at), count(at))]))
        : null,
    ),
  );
  return section(
    "Where the answer came from",
    place,
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
            h("th", {}, "First seen in"),
            h("th", { class: "num" }, "Offset"),
            run.context && index === 0 ? h("th", {}, "Context offset") : null,
          ),
        ),
        h("tbody", {}, ...rows),
      ),
    ),
    h("p", { class: "muted" }, "Matched by text search: a hint, not proof."),
  );
}

function resumptions(run: Run): HTMLElement {
  const times = run.resumptions.map(([at, recorded, inFlight]) =>
    h(
      "li",
      {},
      `After ${seconds(at)}, with ${plural(recorded, "recorded call")}`,
      inFlight ? `, ${count(inFlight)} of them in flight.` : ".",
    ),
  );
  return section("Resumed", h("ul", {}, ...times));
}

function limits(run: Run, links: Links): HTMLElement {
  const entries = run.nodes.flatMap((node) => node.turns.flatMap((turn) => turn.entries));
  const cells = entries.filter((entry): entry is Cell => entry.kind === "cell");
  const numbers = (test: (node: Node) => boolean): number[] => run.nodes.flatMap((node, i) => (test(node) ? [i] : []));
  const stopped = numbers((node) => node.stopReason !== null && node.stopReason !== "final");
  const failed = numbers((node) => node.parent >= 0 && node.ok === false);
  const lines: (HTMLElement | null)[] = [
    stopped.length
      ? h(
          "li",
          {},
          `${plural(stopped.length, "RLM")} stopped early: `,
          ...nodeLinks(run, stopped, links, (node) => ` (${stopReasonText(node.stopReason!)})`),
        )
      : null,
    failed.length
      ? h(
          "li",
          {},
          `${plural(failed.length, "failed call")}: `,
          ...nodeLinks(run, failed, links),
          ...reasons(run, failed),
        )
      : null,
    ...(
      [
        [entries.filter((entry) => entry.kind === "failure").length, "failed request"],
        [cells.filter((cell) => cell.rolledBack).length, "rolled-back cell"],
        [cells.filter((cell) => cell.outcome === "error").length, "cell with an exception", "cells with an exception"],
        [cells.flatMap((cell) => cell.tools).filter((tool) => !tool.ok).length, "failed host function call"],
        [entries.filter((entry) => entry.kind === "lost").length, "lost sandbox", "lost sandboxes"],
        [
          entries.filter((entry) => entry.kind === "compacted").length,
          "conversation summary",
          "conversation summaries",
        ],
      ] as const
    ).map(([number, one, many]) => (number ? h("li", {}, plural(number, one, many)) : null)),
  ];
  const events = lines.filter((line) => line !== null);
  const set = Object.entries(run.limits).filter(([, value]) => value !== null);
  return section(
    "Limits and failures",
    run.stopReason && run.stopReason !== "final"
      ? h("p", {}, "Stop reason: ", h("span", { class: "badge limit" }, stopReasonText(run.stopReason)))
      : null,
    events.length
      ? h("ul", {}, ...events)
      : h("p", { class: "muted" }, "No limits reached, no failures."),
    set.length
      ? h(
          "dl",
          { class: "facts" },
          ...set.map(([name, value]) =>
            h(
              "div",
              {},
              h("dt", {}, isolated(name)),
              h("dd", {}, isolated(typeof value === "number" ? count(value) : JSON.stringify(value))),
            ),
          ),
        )
      : null,
    ...run.notes.map((note) => h("p", { class: "muted" }, escapeHidden(note))),
  );
}

/** The error texts of failed calls, without repetition: equal texts share one reference. */
function reasons(run: Run, failed: number[]): HTMLElement[] {
  const errors = new Map<string, Ref>();
  for (const index of failed) {
    const ref = run.nodes[index]!.answer;
    if (ref) errors.set(ref.join(), ref);
  }
  return [...errors.values()].slice(0, MAX_REASONS).map((ref) => textBlock(ref, { first: 400, className: "error" }));
}

function nodeLinks(
  run: Run,
  numbers: number[],
  links: Links,
  more: (node: Node) => string = () => "",
): (globalThis.Node | string)[] {
  const some = numbers
    .slice(0, MAX_LINKS)
    .flatMap((index, i) => [
      i ? ", " : "",
      link(links.node(index), isolated(run.nodes[index]!.id)),
      more(run.nodes[index]!),
    ]);
  return numbers.length > MAX_LINKS ? [...some, ` and ${count(numbers.length - MAX_LINKS)} more`] : some;
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
      h("td", {}, isolated(name)),
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
            ...["Calls", "Tokens in", "Tokens out", "Cost", "Total time"].map((text) =>
              h("th", { class: "num" }, text),
            ),
          ),
        ),
        h("tbody", {}, ...rows),
      ),
    ),
  );
}
