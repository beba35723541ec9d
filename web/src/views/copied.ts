/** Put text on the clipboard. Answers whether it is there: a page without https may not, and somebody may forbid it. */
export async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
