/** Insert words at the caret of the composer. */
export function writeInBox(words: string): void {
  const box = document.querySelector<HTMLTextAreaElement>(".composer textarea");
  if (box === null) return;
  box.focus();
  const before = box.value.slice(0, box.selectionStart);
  const gap = before === "" || /\s$/.test(before) ? "" : " ";
  box.setRangeText(gap + words, box.selectionStart, box.selectionEnd, "end");
  box.dispatchEvent(new Event("input", { bubbles: true }));
}
