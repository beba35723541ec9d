/** A search as the server takes it. */

/** The server takes 256 characters; two dates grow by 15 each. */
export const LONGEST = 226;

const FILTER_AT_END = /(?:^|\s)(?:from|in|has|after|before):\S*$/i;
const DATE = /"[^"]*"?|(?<!\S)((?:after|before):)(\d{4}-\d\d-\d\d)(?!\S)/gi;

/** Match the last word as a prefix, because it may be incomplete. A filter is taken as it is. */
export function beginning(typed: string): string {
  const quotes = typed.split('"').length - 1;
  const unfinished = quotes % 2 === 0 && /[\p{L}\p{N}]$/u.test(typed) && typed.length < LONGEST;
  return unfinished && !FILTER_AT_END.test(typed) ? `${typed.trimStart()}*` : typed.trim();
}

/** A query whose dates are days of the reader: from midnight by their clock, which differs in summer. */
export function localDates(query: string, offsetAt = (date: Date) => -date.getTimezoneOffset()): string {
  return query.replace(DATE, (whole, name?: string, day?: string) => {
    const midnight = new Date(`${day}T00:00`);
    // The server says of a day that does not exist that it is wrong.
    if (name === undefined || Number.isNaN(midnight.getTime())) return whole;
    const minutes = offsetAt(midnight);
    const two = (part: number) => String(Math.floor(part)).padStart(2, "0");
    const offset = `${minutes < 0 ? "-" : "+"}${two(Math.abs(minutes) / 60)}:${two(Math.abs(minutes) % 60)}`;
    return `${name}${day}T00:00${offset}`;
  });
}
