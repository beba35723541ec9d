import { EmojiPicker } from "frimousse";
import { type AriaAttributes, type KeyboardEvent, useEffect, useState } from "react";
import { language, t } from "../i18n.ts";
import { loadShortcodes, type Shortcode } from "./completion.ts";
import { often, use } from "./often.ts";

const COLUMNS = 8;

/** All emoji, with a search. Its code and its data are loaded when it is first opened. */
export function EmojiGrid({ onChoose: choose }: { onChoose: (emoji: string) => void }) {
  const [favourites] = useState(() => often(COLUMNS));
  const onChoose = (emoji: string) => {
    use(emoji);
    choose(emoji);
  };
  const [shortcodes, setShortcodes] = useState<readonly Shortcode[]>([]);
  const [query, setQuery] = useState<string | null>(null);
  useEffect(() => void loadShortcodes().then(setShortcodes), []);
  // The library offers the first of all matches, by category: not the one with this very name.
  const named = shortcodes.find(({ code }) => code === query);
  const pressed = (event: KeyboardEvent) => {
    if (event.key.startsWith("Arrow")) setQuery(null);
    if (event.key !== "Enter" || named === undefined) return;
    event.preventDefault();
    onChoose(named.emoji);
  };
  return (
    <EmojiPicker.Root
      className={`emoji-grid ${named === undefined ? "" : "named"}`}
      emojibaseUrl="emoji"
      locale={language}
      columns={COLUMNS}
      onEmojiSelect={({ emoji }) => onChoose(emoji)}
    >
      <EmojiPicker.Search
        className="input"
        placeholder={t("Search emoji")}
        aria-label={t("Search emoji")}
        autoFocus
        onChange={(event) => setQuery(event.target.value.trim().toLowerCase().replaceAll(" ", "_"))}
        onKeyDown={pressed}
      />
      <p className={named === undefined ? "hidden" : "muted small"} role="status">
        {named !== undefined && t("Enter: {emoji} {code}", named)}
      </p>
      {favourites.length > 0 && query === null && (
        <fieldset className="emoji-row often">
          <legend className="emoji-category">{t("Used most often")}</legend>
          {favourites.map((emoji) => (
            <button key={emoji} type="button" className="emoji" onClick={() => onChoose(emoji)}>
              {emoji}
            </button>
          ))}
        </fieldset>
      )}
      <EmojiPicker.Viewport className="emoji-viewport">
        <EmojiPicker.Loading className="muted">{t("Loading…")}</EmojiPicker.Loading>
        <EmojiPicker.Empty className="muted">{t("No emoji found.")}</EmojiPicker.Empty>
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
