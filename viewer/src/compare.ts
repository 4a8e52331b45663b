// Two runs compared in numbers.
import type { Run } from "./data";
import { h, isolated } from "./dom";
import { count, dollars, nodeStatus, seconds } from "./format";
import { textBlock } from "./text";

export function comparison(runs: Run[]): HTMLElement {
  const row = (name: string, of: (run: Run) => string | HTMLElement): HTMLElement =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      ...runs.map((run) => h("td", {}, of(run))),
      h("td", { class: "muted" }),
    );
  const number = (name: string, of: (run: Run) => number | null, format: (value: number) => string): HTMLElement => {
    const line = row(name, (run) => {
      const value = of(run);
      return value === null ? "unknown" : format(value);
    });
    const [a, b] = runs.map(of);
    const change =
      a != null && b != null && a > 0 && b !== a
        ? `${b > a ? "+" : "−"}${Math.round(Math.abs(b / a - 1) * 100)}%`
        : "";
    line.lastElementChild!.textContent = change;
    return line;
  };
  const total =
    (place: 0 | 1 | 2 | 5) =>
    (run: Run): number | null =>
      run.nodes[0]!.totalUsage[place];
  return h(
    "details",
    { class: "comparison", open: true },
    h("summary", {}, "Comparison"),
    h(
      "div",
      { class: "scroll-x" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h("tr", {}, h("th", {}), ...runs.map((run) => h("th", {}, isolated(run.id, "mono"))), h("th", {}, "Change")),
        ),
        h(
          "tbody",
          {},
          row("Status", (run) => nodeStatus(run.nodes[0]!, run).word),
          row("Answer", (run) => (run.nodes[0]!.answer?.[2] ? textBlock(run.nodes[0]!.answer, { first: 200 }) : "none")),
          row("Models", (run) => isolated([...new Set(Object.values(run.models))].join(", "))),
          row("Depth", (run) => String(run.depth)),
          number("Time", (run) => run.ended ?? run.latest, seconds),
          number("Cost", total(5), dollars),
          number("Tokens in", total(1), count),
          number("Tokens out", total(2), count),
          number("Model calls", total(0), count),
          number("Nodes", (run) => run.nodes.length, count),
          number(
            "Root turns",
            (run) => run.nodes[0]!.turns.length,
            count,
          ),
        ),
      ),
    ),
  );
}
