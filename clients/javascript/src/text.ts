/** The text of a streaming message. Offsets count code points, not UTF-16 units. */

/** A reader's one rule, whatever was lost: cut the content to `offset` code points, and add the text. */
export function cutAndAdd(content: string, offset: number, text: string): string {
  return content.slice(0, unitsOf(content, offset)) + text;
}

/** The UTF-16 units of the first `points` code points. A lone surrogate counts as one, as in Python. */
export function unitsOf(content: string, points: number): number {
  let units = 0;
  for (let left = points; left > 0 && units < content.length; left--)
    units += (content.codePointAt(units) as number) > 0xffff ? 2 : 1;
  return units;
}

export function lengthOf(content: string): number {
  let points = 0;
  for (let units = 0; units < content.length; points++)
    units += (content.codePointAt(units) as number) > 0xffff ? 2 : 1;
  return points;
}
