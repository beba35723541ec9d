/**
 * The texts of the page in the user's language. The English text is the key of its translation, as in gettext; the
 * translations are in client_demo/tidings_chat/locale (CONTRIBUTING.md says how to add one).
 */
import { createElement, Fragment, type ReactNode } from "react";
import type Tannin from "tannin";

/** Each in its own name. `public/first.js` has their codes. */
export const LANGUAGES = { en: "English", es: "Español" } as const;
export type Language = keyof typeof LANGUAGES;

const LANGUAGE = "tidings.language";
const TRANSLATIONS = { es: () => import("../../client_demo/tidings_chat/locale/es.po") } as const;

/** The language of the page, as `first.js` has found it. It changes by a reload only. */
export const language = (globalThis.document?.documentElement.lang || "en") as Language;

/** The language with the user's country, for dates and numbers. */
export const locale =
  globalThis.navigator?.languages.find((preferred) => preferred.split("-")[0] === language) ?? language;

const numbers = new Intl.NumberFormat(locale);

/** The placeholders of a text: `{name}`. */
type Names<T extends string> = T extends `${string}{${infer Name}}${infer Rest}` ? Name | Names<Rest> : never;
type Values<Name extends string, V> = [Name] extends [never] ? [] : [values: Readonly<Record<Name, V>>];

let translations: Tannin | null = null;
let ofServer: readonly (readonly [text: string, pattern: string])[] = [];

/** Load the translations; without them, the page is in English. Null: there is nothing to load. */
export function loadTranslations(): Promise<void> | null {
  if (language === "en") return null;
  return TRANSLATIONS[language]().then(
    (loaded) => {
      translations = loaded.default;
      ofServer = loaded.ofServer;
    },
    () => {
      document.documentElement.lang = "en";
    },
  );
}

/** The chosen language on this device; null: the browser's. */
export function chosenLanguage(): Language | null {
  const kept = localStorage.getItem(LANGUAGE);
  return kept !== null && kept in LANGUAGES ? (kept as Language) : null;
}

/** Reloads the page. */
export function chooseLanguage(chosen: Language | null): void {
  if (chosen === null) localStorage.removeItem(LANGUAGE);
  else localStorage.setItem(LANGUAGE, chosen);
  window.location.reload();
}

/** A text in the user's language. */
export function t<T extends string>(text: T, ...[values]: Values<Names<T>, string | number>): string {
  return filled(translated(text), values);
}

/** A text with a number, `{count}`, which decides its form. */
export function n<One extends string, Many extends string>(
  one: One,
  many: Many,
  count: number,
  ...[values]: Values<Exclude<Names<One | Many>, "count">, string | number>
): string {
  return filled(translated(one, many, count), { ...(values as object | undefined), count });
}

/** A text with elements as values. */
export function tx<T extends string>(text: T, ...[values]: Values<Names<T>, ReactNode>): ReactNode {
  const given = values as Readonly<Record<string, ReactNode>> | undefined;
  const parts = translated(text).split(/\{(\w+)\}/);
  return createElement(Fragment, null, ...parts.map((part, at) => (at % 2 === 1 ? given?.[part] : part)));
}

/** Mark a text that `t` translates later: translations are not loaded yet where a module begins. */
export function m<T extends string>(text: T): T {
  return text;
}

/** A message of the server in the user's language; null: there is no translation. */
export function translationOf(message: string): string | null {
  if (language === "en" || Object.hasOwn(translations?.data.messages ?? {}, message)) return translated(message);
  for (const [text, pattern] of ofServer) {
    const found = new RegExp(`^${pattern}$`).exec(message);
    if (found !== null) return filled(translated(text), found.groups);
  }
  return null;
}

function translated(one: string, many?: string, count?: number): string {
  if (translations !== null) return translations.dcnpgettext("messages", undefined, one, many, count);
  return many === undefined || count === 1 ? one : many;
}

function filled(text: string, values: Readonly<Record<string, string | number>> = {}): string {
  return text.replace(/\{(\w+)\}/g, (placeholder, name: string) => {
    const value = values[name];
    return typeof value === "number" ? numbers.format(value) : (value ?? placeholder);
  });
}
