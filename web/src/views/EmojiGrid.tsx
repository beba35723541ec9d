import { EmojiPicker } from "frimousse";
import type { AriaAttributes } from "react";

/** All emoji, with a search. Its code and its data are loaded when it is first opened. */
export function EmojiGrid({ onChoose }: { onChoose: (emoji: string) => void }) {
  return (
    <EmojiPicker.Root
      className="emoji-grid"
      emojibaseUrl="/emoji"
      columns={8}
      onEmojiSelect={({ emoji }) => onChoose(emoji)}
    >
      <EmojiPicker.Search className="input" placeholder="Search emoji" aria-label="Search emoji" autoFocus />
      <EmojiPicker.Viewport className="emoji-viewport">
        <EmojiPicker.Loading className="muted">Loading…</EmojiPicker.Loading>
        <EmojiPicker.Empty className="muted">No emoji found.</EmojiPicker.Empty>
        <EmojiPicker.List
          components={{
            CategoryHeader: ({ category, ...props }) => (
              <div className="emoji-category" {...props}>
                {category.label}
              </div>
            ),
            Row: ({ children, ...props }) => (
              <div className="emoji-row" {...fromOne(props)}>
                {children}
              </div>
            ),
            Emoji: ({ emoji, ...props }) => (
              <button type="button" className="emoji" {...fromOne(props)}>
                {emoji.emoji}
              </button>
            ),
          }}
        />
      </EmojiPicker.Viewport>
    </EmojiPicker.Root>
  );
}

/** ARIA counts rows and columns from 1, the library from 0. */
function fromOne<P extends AriaAttributes>(props: P): P {
  const { "aria-rowindex": row, "aria-colindex": column } = props;
  return {
    ...props,
    ...(row === undefined ? {} : { "aria-rowindex": row + 1 }),
    ...(column === undefined ? {} : { "aria-colindex": column + 1 }),
  };
}
