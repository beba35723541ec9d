/** Copy a text. Returns whether that worked: the browser forbids it without HTTPS, and the user may forbid it. */
export async function copyToClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
