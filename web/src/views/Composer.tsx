import { CaseSensitive, SendHorizontal, Smile } from "lucide-react";
import { type KeyboardEvent, useId, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Message } from "../contract.gen.ts";
import type { State } from "../store.ts";
import { nameOf, withTimes } from "../text.ts";
import { tailOf } from "../timeline.ts";
import { isIn } from "../unsent.ts";
import { Completions, useSuggestions } from "./Completions.tsx";
import { Hint, TargetLine } from "./ComposerParts.tsx";
import { EmojiButton } from "./EmojiPicker.tsx";
import { Form } from "./form.tsx";
import { BY_KEY, format, STRIKE } from "./format.ts";
import { lazy } from "./lazy.tsx";
import type { Target } from "./target.ts";
import { IconButton } from "./ui.tsx";
import { useAttached } from "./useAttached.ts";
import { isTouchScreen, useBox } from "./useBox.ts";
import { useMuted } from "./useMuted.ts";
import { useSubmit } from "./useSubmit.ts";
import { useText } from "./useText.ts";
import "../styles/composer.css";
import { t } from "../i18n.ts";

const FormatRow = lazy(
  () => import("./FormatRow.tsx").then((part) => part.FormatRow),
  () => null,
);
const Attachments = lazy(
  () => import("./Attachments.tsx").then((part) => part.Attachments),
  () => null,
);
const AttachButton = lazy(
  () => import("./Attachments.tsx").then((part) => part.AttachButton),
  () => null,
  () => <span className="icon-button" />,
);

interface ComposerProps {
  room_id: string;
  /** The thread that it writes in; left out: the room itself. */
  thread?: string;
  target: Target | null;
  onTarget: (target: Target | null) => void;
}

/** The box for a new message, a reply, or an edit. */
export function Composer({ room_id, thread, target, onTarget }: ComposerProps) {
  const client = useClient();
  const name = useView((view) => {
    const held = view.state.rooms.get(room_id);
    if (held === undefined) return "";
    return `${held.room.kind === "topic" ? "#" : ""}${nameOf(held.room, held.members, view.state.me)}`;
  });
  const mutedUntil = useMuted(room_id);
  const composed = useText(room_id, thread, target);
  const [attached, setAttached] = useAttached(thread ?? room_id);
  const hint = useId();
  const [formatting, setFormatting] = useState(false);
  const { text, left } = composed;
  const box = useBox(text, target);
  const submitting = useSubmit({ room_id, thread, target, onTarget, composed, attached, setAttached });
  const { busy, error, isEmpty, clearError, refuse, submit, cancel } = submitting;
  const attaching = { attached, onChange: setAttached, onRefused: refuse };
  const write = (next: string) => {
    clearError();
    composed.set(next);
  };
  const suggestions = useSuggestions(room_id, { ...composed, set: write }, box);
  const send = () => {
    suggestions.close();
    if (target?.kind !== "edit") box.ref.current?.focus();
    void submit();
  };
  const insert = (emoji: string) => {
    const area = box.ref.current;
    const begin = area?.selectionStart ?? text.length;
    write(text.slice(0, begin) + emoji + text.slice(area?.selectionEnd ?? begin));
    box.focusAt(begin + emoji.length);
  };

  const pressed = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    // The list of completions has handled Enter before, and an input method uses Enter itself (229).
    if (event.defaultPrevented || event.nativeEvent.isComposing || event.keyCode === 229) return;
    if (suggestions.pressed(event)) return;
    formatted(event);
    if (event.defaultPrevented) return;
    if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
      if (isTouchScreen() && !event.ctrlKey && !event.metaKey) return;
      send();
    } else if (event.key === "Escape" && target !== null) cancel();
    else if (event.key === "ArrowUp" && text === "" && target === null && !event.altKey) {
      const waits = client.view
        .getState()
        .unsent.some((one) => one.room_id === room_id && isIn(one, thread) && one.refused === null);
      // While the last message is still unsent, the one before it is not the one to edit.
      const message = waits ? null : lastOwn(client.state, room_id, thread);
      if (message === null) return;
      onTarget({ kind: "edit", message });
    } else return;
    event.preventDefault();
  };

  const formatted = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    const does = event.shiftKey ? (key === "x" ? STRIKE : undefined) : BY_KEY[key];
    if (does === undefined) return;
    event.preventDefault();
    format(event.currentTarget, does);
  };

  const completing = suggestions.choices.length > 0;
  const isTooLong = left !== null && left < 0;
  return (
    <div className="composer">
      {mutedUntil !== null && (
        <p className="muted-here" role="status">
          {withTimes(
            t("You are muted in this room until {time}. Others will not see what you write.", { time: mutedUntil }),
          )}
        </p>
      )}
      {target !== null && <TargetLine target={target} onCancel={cancel} />}
      {target?.kind !== "edit" && <Attachments {...attaching} thread={thread} />}
      {formatting && <FormatRow area={() => box.ref.current} />}
      <Form className="box" onSubmit={send}>
        <EmojiButton
          label={t("Insert an emoji")}
          placement="top-start"
          icon={<Smile size={20} />}
          onChoose={insert}
        />
        {target?.kind !== "edit" && <AttachButton {...attaching} />}
        <IconButton label={t("Formatting")} aria-expanded={formatting} onClick={() => setFormatting(!formatting)}>
          <CaseSensitive size={20} />
        </IconButton>
        <textarea
          ref={box.ref}
          value={text}
          rows={1}
          dir="auto"
          placeholder={
            target?.kind === "edit" ? "" : thread === undefined ? t("Message {name}", { name }) : t("Reply in thread")
          }
          enterKeyHint="enter"
          autoComplete="off"
          aria-label={thread === undefined ? t("Message") : t("Reply in thread")}
          aria-invalid={isTooLong || undefined}
          aria-describedby={hint}
          aria-autocomplete="list"
          aria-controls={completing ? suggestions.id : undefined}
          aria-activedescendant={completing ? `${suggestions.id}${suggestions.active}` : undefined}
          onChange={(event) => {
            write(event.currentTarget.value);
            suggestions.look();
          }}
          onKeyDown={pressed}
          onSelect={suggestions.look}
          onBlur={suggestions.close}
        />
        <button
          type="submit"
          className="send"
          aria-label={t("Send")}
          data-tip={t("Send")}
          data-keys="Enter"
          disabled={isEmpty || isTooLong || busy}
        >
          <SendHorizontal size={20} />
        </button>
      </Form>
      <Completions suggestions={suggestions} />
      <Hint id={hint} left={left} error={error} />
    </div>
  );
}

function lastOwn({ me, rooms, threads }: State, room_id: string, thread: string | undefined): Message | null {
  const segments = rooms.get(room_id)?.segments;
  const messages =
    thread !== undefined ? threads.get(thread)?.replies : segments === undefined ? null : tailOf(segments).messages;
  return messages?.findLast((message) => message.sender === me && !message.deleted) ?? null;
}
