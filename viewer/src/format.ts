// Numbers as people read them.
import type { Run, Node, Usage } from "./data";

export const count = (value: number): string => value.toLocaleString("en-US");

export const plural = (value: number, one: string, many = `${one}s`): string =>
  `${count(value)} ${value === 1 ? one : many}`;

export function short(value: number): string {
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
  return value < 1000 ? `${value} B` : short(value).replace(/(?=[kMGT])/, " ") + "B";
}

export const tokens = (usage: Usage): string => `${short(usage[1])} → ${short(usage[2])} tokens`;

/** How a node stands: a word, and the class that colours it. */
export function state(node: Node, run: Run): { word: string; kind: "ok" | "bad" | "limit" | "open" } {
  const isRoot = node.parent < 0;
  if (isRoot && run.error) return { word: run.stop === "cancelled" ? "cancelled" : "failed", kind: "bad" };
  if (node.ok === false) return { word: "failed", kind: "bad" };
  if (node.ok === null) return { word: run.ended === null ? "not ended" : "stopped", kind: "open" };
  if (node.stop && node.stop !== "final") return { word: stopReason(node.stop), kind: "limit" };
  return { word: "answered", kind: "ok" };
}

const REASONS = new Map([
  ["final", "answered"],
  ["max_iterations", "out of turns"],
  ["max_lm_calls", "limit on calls"],
  ["max_tokens", "limit on tokens"],
  ["max_cost_usd", "limit on cost"],
  ["max_seconds", "limit on time"],
  ["max_consecutive_errors", "too many errors"],
  ["stopped", "stopped by a person"],
  ["cancelled", "cancelled"],
]);

export const stopReason = (reason: string): string => REASONS.get(reason) ?? reason;

export const elapsed = (node: Node, run: Run): number => (node.ended ?? run.latest) - node.started;
