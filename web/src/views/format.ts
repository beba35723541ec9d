/** Writes Markdown around what is selected in the box. */

export interface Format {
  /** Before and after the selection; the same marks again take them away. */
  readonly around?: readonly [string, string];
  /** Before each line of the selection */
  readonly line?: string;
}

/** By the key that is pressed with Ctrl. */
export const BY_KEY: Readonly<Record<string, Format>> = {
  b: { around: ["**", "**"] },
  i: { around: ["*", "*"] },
  e: { around: ["`", "`"] },
};
export const STRIKE: Format = { around: ["~~", "~~"] };

/** Format the selection of a box. It stays selected, and one Ctrl+Z takes it back. */
export function format(area: HTMLTextAreaElement, { around, line }: Format): void {
  const { value, selectionStart, selectionEnd } = area;
  if (line !== undefined) {
    const begin = value.lastIndexOf("\n", selectionStart - 1) + 1;
    const lines = value.slice(begin, selectionEnd).split("\n");
    const has = lines.every((one) => one.startsWith(line));
    const next = lines.map((one) => (has ? one.slice(line.length) : line + one)).join("\n");
    replace(area, begin, selectionEnd, next);
    area.setSelectionRange(begin, begin + next.length);
    return;
  }
  const [before, after] = around ?? ["", ""];
  const selected = value.slice(selectionStart, selectionEnd);
  const begin = selectionStart - before.length;
  const isFormatted = value.slice(begin, selectionStart) === before && value.startsWith(after, selectionEnd);
  if (isFormatted && begin >= 0) {
    replace(area, begin, selectionEnd + after.length, selected);
    area.setSelectionRange(begin, begin + selected.length);
  } else {
    replace(area, selectionStart, selectionEnd, before + selected + after);
    area.setSelectionRange(selectionStart + before.length, selectionEnd + before.length);
  }
}

/** Replace a part of what is in a box; the caret is behind it, and Ctrl+Z takes it back. */
export function replace(area: HTMLTextAreaElement, begin: number, end: number, by: string): void {
  area.focus();
  area.setSelectionRange(begin, end);
  // Nothing else lets Ctrl+Z work; React hears of it as of a key.
  document.execCommand("insertText", false, by);
}
