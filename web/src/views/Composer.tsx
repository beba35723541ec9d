import { Combobox, ComboboxItem, ComboboxPopover, useComboboxStore } from "@ariakit/react";
import { Pencil, Reply, SendHorizontal, Smile, X } from "lucide-react";
import { type ComponentProps, type KeyboardEvent, useEffect, useLayoutEffect, useRef, useState } from "react";
import { useClient } from "../context.ts";
import type { Message } from "../contract.gen.ts";
import { tailOf } from "../timeline.ts";
import { completed } from "./completion.ts";
import { EmojiButton } from "./EmojiPicker.tsx";
import type { Target } from "./Room.tsx";
import { Avatar, Form, IconButton, useWork } from "./ui.tsx";
import { useCompletion } from "./useCompletion.ts";
import "../styles/composer.css";

/** As the server counts: in code points. */
const LONGEST = 16_384;
const SHOW_LEFT_FROM = 15_000;

/** Where one writes: a new message, an answer, or what one has sent anew. */
export function Composer({
  room_id,
  target,
  onTarget,
}: {
  room_id: string;
  target: Target | null;
  onTarget: (target: Target | null) => void;
}) {
  const client = useClient();
  const box = useRef<HTMLTextAreaElement>(null);
  const editing = target?.kind === "edit" ? target.message : null;
  const [draft, setDraft] = useDraft(room_id);
  /** What has become of the text of the target; another target begins with its own. */
  const [edited, setEdited] = useState<{ readonly target: Target; readonly text: string } | null>(null);
  const { busy, error, run, clear } = useWork();
  const [failed, setFailed] = useState<string | null>(null);
  const text = editing === null ? draft : edited?.target === target ? edited.text : editing.content;
  const left = text.length < SHOW_LEFT_FROM ? LONGEST : LONGEST - [...text].length;
  const empty = text.trim() === "";

  const write = (next: string) => {
    setFailed(null);
    clear();
    if (target?.kind === "edit") return setEdited({ target, text: next });
    setDraft(next);
    client.typing(room_id, next.trim() !== "");
  };

  // Who opens a room is about to write. Under a finger the keyboard would cover what was opened.
  useEffect(() => {
    if (isTouched()) return;
    // After the dialog that it was opened from has given the focus back.
    const frame = requestAnimationFrame(() => box.current?.focus({ preventScroll: true }));
    return () => cancelAnimationFrame(frame);
  }, []);

  useEffect(() => {
    // Who is in the box may write already, or has gone there by then.
    const isIn = () => document.activeElement === box.current;
    if (target === null || isIn()) return;
    // After the menu or button that it came from has given the focus back.
    const frame = requestAnimationFrame(() => {
      if (isIn()) return;
      box.current?.focus();
      box.current?.setSelectionRange(box.current.value.length, box.current.value.length);
    });
    return () => cancelAnimationFrame(frame);
  }, [target]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: it grows with what is written
  useLayoutEffect(() => {
    const area = box.current;
    if (area === null) return;
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  }, [text]);

  const completion = useCompletion(room_id, box);
  const cancel = () => {
    clear();
    onTarget(null);
  };

  const submit = async () => {
    if (empty || left < 0) return;
    completion.close();
    const content = text.replace(/^(?:[^\S\n]*\n)+/, "").trimEnd();
    if (editing !== null) {
      if (content === editing.content) return cancel();
      if (await run(() => client.ask("edit", { message_id: editing.id, content }))) onTarget(null);
      return;
    }
    const reply_to = target?.message.id ?? null;
    setDraft("");
    onTarget(null);
    box.current?.focus();
    try {
      await client.send(room_id, content, reply_to);
    } catch {
      setDraft(content);
      setFailed("This device could not keep it to be sent. Is its storage full?");
    }
  };

  const store = useComboboxStore({ placement: "top-start" });
  const shown = completion.choices.length > 0;
  // biome-ignore lint/correctness/useExhaustiveDependencies: the store is the same
  useLayoutEffect(() => store.setOpen(shown), [shown]);
  const choose = (by: string) => {
    if (completion.trigger === null) return;
    const next = completed(text, completion.trigger, by);
    write(next.text);
    completion.close();
    requestAnimationFrame(() => {
      box.current?.focus();
      box.current?.setSelectionRange(next.caret, next.caret);
    });
  };
  const insert = (emoji: string) => {
    const area = box.current;
    const begin = area?.selectionStart ?? text.length;
    write(text.slice(0, begin) + emoji + text.slice(area?.selectionEnd ?? begin));
    requestAnimationFrame(() => {
      area?.focus();
      area?.setSelectionRange(begin + emoji.length, begin + emoji.length);
    });
  };

  const pressed = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    // The list of completions takes Enter before this is asked.
    if (event.defaultPrevented || event.nativeEvent.isComposing || event.keyCode === 229) return;
    if (shown) {
      const active = store.getState().activeValue;
      if (event.key === "Escape") completion.close();
      else if ((event.key === "Enter" || event.key === "Tab") && !event.shiftKey)
        choose(active ?? completion.choices[0]?.value ?? "");
      else return;
      event.preventDefault();
    } else if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
      if (isTouched() && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      void submit();
    } else if (event.key === "Escape" && target !== null) {
      event.preventDefault();
      cancel();
    } else if (event.key === "ArrowUp" && text === "" && target === null && !event.altKey) {
      const waits = client.view
        .getState()
        .unsent.some((unsent) => unsent.room_id === room_id && unsent.refused === null);
      // What was sent last is still on its way: the one before it is not what is meant.
      const message = waits ? null : lastOwn(client.room(room_id)?.segments, client.me);
      if (message === null) return;
      event.preventDefault();
      onTarget({ kind: "edit", message });
    }
  };

  return (
    <div className="composer">
      {target !== null && (
        <div className="target">
          {target.kind === "edit" ? <Pencil size={16} /> : <Reply size={16} />}
          <span className="ellipsis grow">
            {target.kind === "edit" ? (
              "Editing"
            ) : (
              <>
                Replying to <b>{target.message.sender}</b>
              </>
            )}{" "}
            <span className="muted">{target.message.content.slice(0, 200)}</span>
          </span>
          <IconButton label="Cancel" onClick={cancel}>
            <X size={16} />
          </IconButton>
        </div>
      )}
      <Form className="box" onSubmit={() => void submit()}>
        <EmojiButton label="Insert an emoji" placement="top-start" icon={<Smile size={20} />} onChoose={insert} />
        <Combobox
          ref={box as never}
          store={store}
          autoSelect
          value={text}
          showOnClick={false}
          showOnChange={false}
          showOnKeyPress={false}
          setValueOnChange={false}
          aria-label="Message"
          aria-invalid={left < 0 || undefined}
          aria-describedby="composer-hint"
          onChange={(event) => {
            write(event.currentTarget.value);
            completion.look();
          }}
          onKeyDown={pressed as never}
          onSelect={completion.look}
          onBlur={completion.close}
          // It is a box for text that now and then offers to complete a word.
          render={({ role: _, "aria-expanded": __, ...props }) => (
            <textarea
              {...(props as ComponentProps<"textarea">)}
              rows={1}
              placeholder={editing === null ? "Write something…" : ""}
              enterKeyHint="enter"
            />
          )}
        />
        <button type="submit" className="send" aria-label="Send" title="Send" disabled={empty || left < 0 || busy}>
          <SendHorizontal size={20} />
        </button>
      </Form>
      <ComboboxPopover
        store={store}
        className="menu completion"
        aria-label="Completions"
        gutter={6}
        unmountOnHide
        getAnchorRect={() => box.current?.getBoundingClientRect() ?? null}
      >
        {completion.choices.map((choice) => (
          <ComboboxItem
            key={choice.value}
            className="menu-item"
            value={choice.value}
            focusOnHover
            setValueOnClick={false}
            onMouseDown={(event) => event.preventDefault()}
            onClick={() => choose(choice.value)}
          >
            {choice.sign === null ? <Avatar small name={choice.name} /> : <span className="sign">{choice.sign}</span>}
            {choice.name}
          </ComboboxItem>
        ))}
      </ComboboxPopover>
      <div id="composer-hint" className="hint" aria-live="polite">
        {left < 0 ? (
          <span className="error">This is {-left} characters too long.</span>
        ) : (
          left < LONGEST && <span className="muted">{left} characters left</span>
        )}
        {(error ?? failed) !== null && <span className="error">{error ?? failed}</span>}
      </div>
    </div>
  );
}

/** What was begun and not sent, of each room; kept until it is. */
function useDraft(room_id: string): [string, (text: string) => void] {
  const client = useClient();
  const [draft, setDraft] = useState("");
  const touched = useRef(false);
  useEffect(() => {
    void client.draft(room_id).then((kept) => touched.current || setDraft(kept));
  }, [client, room_id]);
  const write = (text: string) => {
    touched.current = true;
    setDraft(text);
    client.keepDraft(room_id, text);
  };
  return [draft, write];
}

function lastOwn(segments: Parameters<typeof tailOf>[0] | undefined, me: string): Message | null {
  if (segments === undefined) return null;
  return tailOf(segments).messages.findLast((message) => message.sender === me && !message.deleted) ?? null;
}

/** Whether the keyboard is one on the screen. */
function isTouched(): boolean {
  return window.matchMedia("(pointer: coarse)").matches;
}
