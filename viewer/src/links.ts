// Addresses within the page: `#run/node/part`, `#run/view/offset`.

export interface Links {
  node(index: number, part?: string): string;
  context(offset: number): string;
}
