import "../styles/search.css";
import { TidingsError } from "@tidings/client";
import { type KeyboardEvent, useEffect, useId, useRef, useState } from "react";
import type { Client } from "../client.ts";
import { useClient, useView } from "../context.ts";
import type { Message, SearchResults, Snippet } from "../contract.gen.ts";
import { n, t, tx } from "../i18n.ts";
import { openMessage } from "../location.ts";
import { momentOf, nameOf, plainSnippet, reasonOf, summaryOf, whenOf } from "../text.ts";
import { Avatar } from "./Avatar.tsx";
import { DisplayName } from "./DisplayName.tsx";
import { Form } from "./form.tsx";
import { Panel } from "./Panel.tsx";
import { beginning, LONGEST, localDates } from "./query.ts";

const TYPED_AFTER = 250;
const PAGE = 30;
/** Characters of a message without words to show */
const LONGEST_SNIPPET = 1000;

/** Search while typing, in the open room or in all of the user's rooms. */
export function SearchPanel({
  room_id,
  asked,
  onClose,
  onMakeWay,
}: {
  /** The room on the screen */
  room_id: string | null;
  /** A new object for each request to search */
  asked: { readonly here: boolean };
  onClose: () => void;
  /** The user jumps to a message. */
  onMakeWay: () => void;
}) {
  const [query, setQuery] = useState("");
  const [here, setHere] = useState(asked.here);
  const scope = here ? room_id : null;
  const search = useSearch(query, scope);
  const field = useRef<HTMLInputElement>(null);
  const results = useRef<HTMLOListElement>(null);
  const id = useId();
  useEffect(() => {
    setHere(asked.here);
    field.current?.focus();
    field.current?.select();
  }, [asked]);

  const jump = (message: Message) => {
    openMessage(message);
    if (message.thread == null) onMakeWay();
  };
  /** Arrow keys move between the field and the results. */
  const step = (event: KeyboardEvent) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by === undefined) return;
    const stops = [field.current, ...(results.current?.querySelectorAll<HTMLElement>("button") ?? [])];
    const next = stops[stops.indexOf(document.activeElement as HTMLInputElement) + by];
    if (next == null) return;
    next.focus();
    event.preventDefault();
  };
  const clear = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || query === "") return;
    setQuery("");
    event.preventDefault();
  };
  return (
    <Panel title={t("Search")} onClose={onClose}>
      {/* biome-ignore lint/a11y/noStaticElementInteractions: the arrows go between what is in it, which Tab reaches, too */}
      <div className="content search" onKeyDown={step}>
        <Form role="search" onSubmit={search.now}>
          <input
            ref={field}
            className="input"
            type="search"
            aria-label={t("Search")}
            aria-describedby={`${id}-help`}
            placeholder={here ? t("Search in this room") : t("Search in all your rooms")}
            maxLength={LONGEST}
            autoComplete="off"
            enterKeyHint="search"
            // biome-ignore lint/a11y/noAutofocus: who opens the search wants to write what is searched for
            autoFocus
            value={query}
            onChange={(event) => setQuery(event.target.value)}
            onKeyDown={clear}
          />
          {room_id !== null && (
            <fieldset className="segments">
              <legend className="hidden">{t("Where")}</legend>
              {[true, false].map((choice) => (
                <label key={String(choice)}>
                  <input type="radio" name={id} checked={here === choice} onChange={() => setHere(choice)} />
                  <span>{choice ? t("This room") : t("All rooms")}</span>
                </label>
              ))}
            </fieldset>
          )}
          <p id={`${id}-help`} className="muted small">
            {tx(
              "Finds all the {words}, {phrase}, or {begin}. Narrow it with {from}, {in}, {direct}, {link}, {code}, {file}, {after} or {before}",
              {
                words: <b>{t("words")}</b>,
                phrase: <b>"{t("a phrase")}"</b>,
                begin: <b>{t("begin")}*</b>,
                from: <b>from:ana</b>,
                in: <b>in:plaza</b>,
                direct: <b>in:@ana</b>,
                link: <b>has:link</b>,
                code: <b>has:code</b>,
                file: <b>has:file</b>,
                after: <b>after:2026-01-31</b>,
                before: <b>before:2026-02-14</b>,
              },
            )}
          </p>
        </Form>
        <p role="status" className="muted small">
          {search.says}
        </p>
        {search.error !== null && (
          <p role="alert" className="error">
            {search.error}
          </p>
        )}
        <ol ref={results} aria-label={t("Results")} className={search.stale ? "stale" : ""}>
          {search.hits.map(({ message, snippet }) => (
            <Hit
              key={message.id}
              message={message}
              snippet={snippet}
              withRoom={scope === null}
              onJump={() => jump(message)}
            />
          ))}
        </ol>
        {search.more !== null && (
          <button type="button" className="button" onClick={search.more}>
            {t("Show more")}
          </button>
        )}
      </div>
    </Panel>
  );
}

function Hit({
  message,
  snippet,
  withRoom,
  onJump,
}: {
  message: Message;
  snippet: readonly Snippet[];
  withRoom: boolean;
  onJump: () => void;
}) {
  const held = useView((view) => view.state.rooms.get(message.room_id));
  const me = useClient().me;
  const name = held === undefined ? message.topic_name : nameOf(held.room, held.members, me);
  let at = 0;
  return (
    <li>
      <button type="button" onClick={onJump}>
        <Avatar name={message.sender} small />
        <span className="grow">
          <span className="who">
            <b>
              <DisplayName room_id={message.room_id} username={message.sender} />
            </b>
            {withRoom && name !== null && (
              <span className="muted small ellipsis">
                {held?.room.kind === "direct" ? t("with {name}", { name }) : t("in {name}", { name })}
              </span>
            )}
            <time className="muted small" dateTime={message.created_at} data-tip={momentOf(message.created_at)}>
              {whenOf(message.created_at)}
            </time>
          </span>
          <span className="what">
            {snippet.map(({ text, match }) => {
              at += text.length;
              return match ? <mark key={at}>{text}</mark> : <span key={at}>{text}</span>;
            })}
          </span>
        </span>
      </button>
    </li>
  );
}

interface Answered {
  readonly query: string;
  readonly scope: string | null;
  readonly hits: readonly { readonly message: Message; readonly snippet: readonly Snippet[] }[];
  readonly next: string | null;
}

/** The results of a query, shortly after its last change. Answers to earlier queries are dropped. */
function useSearch(typed: string, scope: string | null) {
  const client = useClient();
  const [answered, setAnswered] = useState<Answered | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const latest = useRef(0);
  const query = typed.trim() === "" ? "" : beginning(typed);

  const ask = async (before: Answered | null) => {
    latest.current += 1;
    const mine = latest.current;
    setBusy(true);
    const outcome = await found(client, query, scope, before?.next ?? null);
    if (mine !== latest.current) return;
    setBusy(false);
    setError(typeof outcome === "string" ? outcome : null);
    if (typeof outcome === "string") return;
    const hits = outcome.messages.map((message) => ({
      message,
      snippet: plainSnippet(
        outcome.snippets[message.id] ?? [{ text: summaryOf(message, LONGEST_SNIPPET), match: false }],
      ),
    }));
    setAnswered({ query, scope, hits: [...(before?.hits ?? []), ...hits], next: outcome.next });
  };
  const current = useRef(ask);
  current.current = ask;
  // biome-ignore lint/correctness/useExhaustiveDependencies: another scope is another search
  useEffect(() => {
    latest.current += 1;
    setError(null);
    setBusy(false);
    if (query === "") return setAnswered(null);
    const timer = setTimeout(() => void current.current(null), TYPED_AFTER);
    return () => clearTimeout(timer);
  }, [query, scope]);

  const isOf = answered !== null && answered.query === query && answered.scope === scope;
  const next = answered?.next ?? null;
  return {
    hits: answered?.hits ?? [],
    stale: !isOf,
    error,
    says: isOf && !busy && error === null ? counted(answered.hits.length, next !== null) : "",
    now: () => (query === "" ? undefined : void ask(null)),
    more: isOf && next !== null && !busy ? () => void ask(answered) : null,
  };
}

/** The results, or why there are none. */
async function found(
  client: Client,
  query: string,
  room_id: string | null,
  before: string | null,
): Promise<SearchResults | string> {
  try {
    return await client.ask("search", {
      query: localDates(query),
      limit: PAGE,
      ...(room_id === null ? {} : { room_id }),
      ...(before === null ? {} : { before }),
    });
  } catch (error) {
    if (error instanceof TidingsError && /contains no word/.test(error.message))
      return t("Enter a word to search for.");
    return reasonOf(error);
  }
}

function counted(count: number, more: boolean): string {
  if (count === 0) return t("No results");
  if (more) return n("The newest {count} result", "The newest {count} results", count);
  return n("{count} result", "{count} results", count);
}
