/**
 * Stands for the package `decode-named-character-reference`, which the Markdown parser asks for `&amp;` and its like. In a
 * browser that one makes HTML of what others wrote, which the page's policy forbids. Here they stay as they were typed.
 */
export function decodeNamedCharacterReference(): false {
  return false;
}
