// The data of the page as rlm/trajectory/view/data.py makes it, and the texts, which are unpacked when they are looked at.

export type Ref = [piece: number, place: number, length: number];
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
  replayed: boolean; // it was paid before, and the reply is the journal's
  usage: Usage;
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
export interface Lost {
  kind: "lost";
  ended: number;
  reason: Ref;
  sandbox: string;
  restored: boolean; // its cells have run again
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
  tools: Tool[]; // functions of the host that it called
  outcome: string | null; // null: it had not ended, and the fields below are not there
  rolledBack?: boolean;
  snapshot?: boolean;
  own?: number;
  stdout?: Ref | null;
  stderr?: Ref | null;
  cut?: [stdout: number, stderr: number];
  error?: Ref | null;
  answer?: Ref | null;
}
export type Entry = Reply | Failure | Lost | Compacted | Diverged | Question | Limits | Cell;

export interface Turn {
  number: number;
  of: number | null;
  last: boolean;
  started: number;
  entries: Entry[];
}
export interface Find {
  piece: string;
  call: number; // -1: the output of the cell
  cell: number;
  at: number;
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
  remembered: boolean; // its answer came from the journal
  stop: string | null;
  own: Usage;
  total: Usage;
  prompt: Ref | null;
  answer: Ref | null;
  turns: Turn[];
  origin: { turn: number; cell: number; finds: Find[] } | null;
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
  began: number;
  latest: number;
  ended: number | null;
  stop: string | null;
  error: Ref | null;
  resumed: [at: number, recorded: number, inFlight: number][];
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
  const data = (await unpack(document.getElementById("record")!.textContent!)) as { v: number; runs: Run[] };
  if (data.v !== 1) throw new Error(`This viewer does not know version ${data.v} of the page's data.`);
  return data.runs;
}

const KEPT_PIECES = 64;
const pieces = new Map<number, Promise<string[]>>();

/** The text at a place of this page. */
export async function textOf([piece, place]: Ref): Promise<string> {
  let texts = pieces.get(piece);
  if (texts) pieces.delete(piece);
  else texts = arrived(piece).then((packed) => unpack(packed) as Promise<string[]>);
  pieces.set(piece, texts); // as the newest: the oldest are forgotten
  if (pieces.size > KEPT_PIECES) pieces.delete(pieces.keys().next().value!);
  return (await texts)[place] ?? "";
}

/** A piece of a long page may still be on its way when the first rows are shown. It is whole once an element follows it. */
async function arrived(piece: number): Promise<string> {
  for (;;) {
    const element = document.getElementById(`t${piece}`);
    if (element && (element.nextElementSibling || document.readyState !== "loading")) return element.textContent!;
    if (document.readyState !== "loading") throw new Error("This page is not whole: its file was cut off.");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
