// URL fragments of the page: `#run/node/part` and `#run/view/offset`.

export interface Links {
  node(index: number, part?: string): string;
  context(offset: number): string;
}
