// The data of the page, as rlm/trajectory/view/page_data.py builds it. Texts are unpacked on demand.

export type Ref = [piece: number, index: number, length: number];
export type Usage = [
  calls: number,
  input: number,
  output: number,
  cached: number,
  reasoning: number,
  dollars: number | null,
];

export interface Reply {
  kind: "reply";
  ended: number;
  seconds: number;
  model: string;
  finish: string;
  replayed: boolean; // the reply came from the journal, without a new request
  usage: Usage;
  thinking: Ref | null;
  text: Ref;
  prose: Ref;
  sent: [role: string, text: Ref][];
}
export interface Failure {
  kind: "failure";
  ended: number;
  seconds: number;
  model: string;
  error: Ref;
}
export interface SandboxLoss {
  kind: "lost";
  ended: number;
  reason: Ref;
  sandbox: string;
  restored: boolean; // its cells ran again
}
export interface Compacted {
  kind: "compacted";
  ended: number;
  messages: number;
  summary: Ref;
}
export interface Diverged {
  kind: "diverged";
  ended: number;
  call: number;
}
export interface Question {
  kind: "question";
  ended: number;
  query: Ref;
  contextBytes: number | null;
}
export interface Limits {
  kind: "limits";
  ended: number;
  limits: Record<string, number | null>;
}
export interface Tool {
  name: string;
  arguments: Ref;
  ok: boolean;
  ended: number;
  seconds: number;
}
export interface Cell {
  kind: "cell";
  number: number;
  started: number;
  ended: number | null;
  code: Ref;
  calls: number[];
  tools: Tool[]; // calls of host functions
  outcome: string | null; // null while the cell is open; the fields below are missing then
  rolledBack?: boolean;
  snapshot?: boolean;
  ownSeconds?: number;
  stdout?: Ref | null;
  stderr?: Ref | null;
  cut?: [stdout: number, stderr: number];
  error?: Ref | null;
  answer?: Ref | null;
}
export type Entry = Reply | Failure | SandboxLoss | Compacted | Diverged | Question | Limits | Cell;

export interface Turn {
  number: number;
  limit: number | null;
  isFinal: boolean;
  started: number;
  entries: Entry[];
}
export interface Source {
  piece: string;
  call: number; // -1: the output of the cell
  cell: number;
  offset: number;
  context: number[];
}
export interface Node {
  id: string;
  parent: number;
  rlm: boolean;
  label: string;
  model: string;
  batch: number;
  depth: number;
  sandbox: string;
  contextType: string;
  contextSize: number | null;
  started: number;
  ready: number | null;
  ended: number | null;
  ok: boolean | null;
  fromJournal: boolean; // the answer came from the journal, and the RLM did not run again
  stopReason: string | null;
  ownUsage: Usage;
  totalUsage: Usage;
  prompt: Ref | null;
  answer: Ref | null;
  turns: Turn[];
  origin: { turn: number; cell: number; sources: Source[] } | null;
}
export interface Context {
  chars: number;
  partChars: number;
  parts: Ref[];
  slices: [call: number, start: number, end: number, offset: number][];
}
export interface Run {
  id: string;
  query: Ref | null;
  depth: number;
  models: Record<string, string>;
  contextBytes: number;
  started: number;
  latest: number;
  ended: number | null;
  stopReason: string | null;
  error: Ref | null;
  resumptions: [at: number, recorded: number, inFlight: number][];
  limits: Record<string, unknown>;
  notes: string[];
  context: Context | null;
  nodes: Node[];
}

async function unpack(packed: string): Promise<unknown> {
  const binary = atob(packed);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

export async function readRuns(): Promise<Run[]> {
  const data = (await unpack(document.getElementById("runs")!.textContent!)) as { v: number; runs: Run[] };
  if (data.v !== 1) throw new Error(`Unsupported data version ${data.v}: write the page again with rlm view.`);
  return data.runs;
}

const MAX_CACHED_PIECES = 64;
const pieces = new Map<number, Promise<string[]>>();

/** The text that a reference points to. */
export async function textOf([piece, index]: Ref): Promise<string> {
  let texts = pieces.get(piece);
  if (texts) pieces.delete(piece);
  else texts = pieceContent(piece).then((packed) => unpack(packed) as Promise<string[]>);
  pieces.set(piece, texts); // last in the map: the first is the least recently used
  if (pieces.size > MAX_CACHED_PIECES) pieces.delete(pieces.keys().next().value!);
  return (await texts)[index] ?? "";
}

/** Waits for a piece of a page that is still loading. A piece is complete once an element follows it. */
async function pieceContent(piece: number): Promise<string> {
  for (;;) {
    const element = document.getElementById(`t${piece}`);
    if (element && (element.nextElementSibling || document.readyState !== "loading")) return element.textContent!;
    if (document.readyState !== "loading") throw new Error("This page is truncated: write it again with rlm view.");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
