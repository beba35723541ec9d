/** The texts of the page in Spanish, from the catalogue as the build reads it. */
import { TidingsError } from "@tidings/client/errors";
import { beforeAll, expect, test, vi } from "vitest";

let i18n: typeof import("../src/i18n.ts");
let text: typeof import("../src/text.ts");

beforeAll(async () => {
  vi.stubGlobal("document", { documentElement: { lang: "es" } });
  vi.stubGlobal("navigator", { languages: ["en-GB", "es-MX"] });
  i18n = await import("../src/i18n.ts");
  text = await import("../src/text.ts");
  await i18n.loadTranslations();
});

test("texts have their values, plurals their form, and numbers and dates their locale", () => {
  expect(i18n.t("Open {name}", { name: "{name}" })).toBe("Abrir {name}");
  expect(i18n.n("{count} member", "{count} members", 1)).toBe("1 miembro");
  expect(i18n.n("{count} member", "{count} members", 12_345)).toBe("12,345 miembros");
  expect(i18n.locale).toBe("es-MX");
  expect(text.momentOf("2026-01-31T12:00:00Z")).toContain("enero");
  expect(text.keysOf("Shift Enter")).toBe("Mayús Intro");
});

test("an error is in the user's language by its message, else by its code, else in the server's words", () => {
  const said = (code: string, message: string) =>
    text.reasonOf(new TidingsError({ code: code as "invalid", message }));
  expect(said("conflict", "the name is taken")).toBe("El nombre ya existe.");
  expect(said("conflict", "omar (2) is already a member")).toBe("omar (2) ya es miembro.".replace("o", "O"));
  expect(said("forbidden", "a moderator may not do that")).toBe("No tienes permiso para hacer esto.");
  expect(said("of_tomorrow", "the moon is full")).toBe("The moon is full.");
  expect(said("conflict", "constructor")).toBe("Ahora no es posible: algo ha cambiado o ya existe.");
});
