// Numbers, sizes, times and states for display.
import type { Node, Run, Usage } from "./data";

export const count = (value: number): string => value.toLocaleString("en-US");

export const plural = (value: number, one: string, many = `${one}s`): string =>
  `${count(value)} ${value === 1 ? one : many}`;

export function compact(value: number): string {
  if (value < 1000) return String(value);
  for (const unit of ["k", "M", "G"]) {
    value /= 1000;
    if (value < 999.5)
      return (value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0)) + unit;
  }
  return `${value.toFixed(0)}T`;
}

export function seconds(value: number): string {
  if (value <= 0) return "0";
  if (value < 0.0005) return "<1 ms";
  if (value < 1) return `${(value * 1000).toFixed(0)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  const whole = Math.round(value);
  const rest = String(whole % 60).padStart(2, "0");
  return whole < 3600
    ? `${Math.floor(whole / 60)}:${rest} min`
    : `${Math.floor(whole / 3600)}:${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")}:${rest} h`;
}

export function dollars(value: number | null): string {
  if (value === null) return "cost unknown";
  if (value === 0) return "$0";
  return value < 0.00005 ? "<$0.0001" : value < 1 ? `$${value.toFixed(4)}` : `$${value.toFixed(2)}`;
}

export function bytes(value: number): string {
  return value < 1000 ? `${value} B` : compact(value).replace(/(?=[kMGT])/, " ") + "B";
}

export const tokens = (usage: Usage): string => `${compact(usage[1])} → ${compact(usage[2])} tokens`;

/** The status of a node: a word, and the CSS class that colours it. */
export function nodeStatus(node: Node, run: Run): { word: string; kind: "ok" | "bad" | "limit" | "open" } {
  const isRoot = node.parent < 0;
  if (isRoot && run.error) return { word: run.stopReason === "cancelled" ? "cancelled" : "failed", kind: "bad" };
  if (node.ok === false) return { word: "failed", kind: "bad" };
  if (node.ok === null) return { word: run.ended === null ? "unfinished" : "stopped", kind: "open" };
  if (node.stopReason && node.stopReason !== "final") return { word: stopReasonText(node.stopReason), kind: "limit" };
  return { word: "answered", kind: "ok" };
}

const STOP_REASONS = new Map([
  ["final", "answered"],
  ["max_iterations", "turn limit"],
  ["max_lm_calls", "model call limit"],
  ["max_tokens", "token limit"],
  ["max_cost_usd", "cost limit"],
  ["max_seconds", "time limit"],
  ["max_rlms", "RLM limit"],
  ["max_consecutive_errors", "error limit"],
  ["stopped", "stopped on request"],
  ["cancelled", "cancelled"],
]);

export const stopReasonText = (reason: string): string => STOP_REASONS.get(reason) ?? reason;

export const elapsed = (node: Node, run: Run): number => (node.ended ?? run.latest) - node.started;
