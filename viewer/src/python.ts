// Syntax highlighting of Python.
import { escapeHidden, h } from "./dom";

const TOKEN =
  /(?<comment>#[^\n]*)|(?<string>(?:\b[rRbBuUfF]{1,2})?(?:"""(?:[^\\]|\\[\s\S])*?(?:"""|$)|'''(?:[^\\]|\\[\s\S])*?(?:'''|$)|"(?:[^"\\\n]|\\[\s\S])*(?:"|$|(?=\n))|'(?:[^'\\\n]|\\[\s\S])*(?:'|$|(?=\n))))|(?<number>\b(?:0[xXoObB][\da-fA-F_]+|\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?j?))|(?<word>[\p{L}_][\p{L}\p{N}_]*)/gu;

const KEYWORDS = new Set(
  "False None True and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return try while with yield".split(
    " ",
  ),
);
const CALLS = new Set(
  "FINAL FINAL_VAR SHOW_VARS answer context history llm_batch llm_query llm_query_batched rlm_query rlm_query_batched".split(
    " ",
  ),
);

/** Code as nodes with a class for each kind of token. */
export function highlighted(code: string): DocumentFragment {
  const fragment = document.createDocumentFragment();
  let from = 0;
  for (const match of code.matchAll(TOKEN)) {
    const groups = match.groups!;
    const kind = groups.comment ? "comment" : groups.string ? "string" : groups.number ? "number" : wordKind(match[0]);
    if (!kind) continue;
    if (match.index > from) fragment.append(escapeHidden(code.slice(from, match.index)));
    fragment.append(h("span", { class: `py-${kind}` }, escapeHidden(match[0])));
    from = match.index + match[0].length;
  }
  if (from < code.length) fragment.append(escapeHidden(code.slice(from)));
  return fragment;
}

function wordKind(word: string): string | null {
  if (KEYWORDS.has(word)) return "keyword";
  return CALLS.has(word) ? "rlm" : null;
}
