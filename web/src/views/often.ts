/** How often this user has chosen each emoji, on this device. */

const USED = "tidings.emoji";
/** The others are forgotten. */
const KEPT = 60;

function read(): Record<string, number> {
  try {
    return JSON.parse(localStorage.getItem(USED) ?? "{}") as Record<string, number>;
  } catch {
    return {};
  }
}

/** Forget them: the user signs out. */
export function forgetUse(): void {
  localStorage.removeItem(USED);
}

export function use(emoji: string): void {
  const used = read();
  used[emoji] = (used[emoji] ?? 0) + 1;
  const kept = Object.entries(used).sort(([, one], [, other]) => other - one);
  localStorage.setItem(USED, JSON.stringify(Object.fromEntries(kept.slice(0, KEPT))));
}

/** Those chosen most often, the most often chosen first. */
export function often(most: number): readonly string[] {
  return Object.entries(read())
    .sort(([, one], [, other]) => other - one)
    .slice(0, most)
    .map(([emoji]) => emoji);
}

/** In the same order, but those that were chosen more often first. */
export function byUse<T>(all: readonly T[], emojiOf: (one: T) => string): readonly T[] {
  const used = read();
  return all.toSorted((one, other) => (used[emojiOf(other)] ?? 0) - (used[emojiOf(one)] ?? 0));
}
