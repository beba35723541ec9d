/** The page in Spanish: from the first form to a message, on a phone and a desktop. */
import type { BrowserContextOptions } from "playwright-core";
import { PASSWORD } from "./support/account.ts";
import { isAccessible } from "./support/axe.ts";
import type { Person } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

const SIZES: Record<string, BrowserContextOptions> = {
  desktop: { viewport: { width: 1280, height: 800 } },
  phone: { viewport: { width: 390, height: 844 } },
};
const SPANISH = { locale: "es-ES" };

const languageOf = ({ page }: Person) => page.evaluate(() => document.documentElement.lang);

/** Nothing is wider than its place: longer words need more of it. */
async function fits({ page }: Person, view: string): Promise<void> {
  const wide = await page.evaluate(() =>
    [document.documentElement, ...document.querySelectorAll("button, [role=tab], [role=menuitem], label, h1, h2, p")]
      .filter(
        (element) =>
          element.checkVisibility({ visibilityProperty: true }) &&
          element.scrollWidth > element.clientWidth + 1 &&
          getComputedStyle(element).display !== "inline" &&
          !element.matches(".hidden, .ellipsis, .ellipsis *, :has(> .hidden)"),
      )
      .map((element) => element.outerHTML.slice(0, 200)),
  );
  expect(wide, view).toEqual([]);
}

for (const [size, options] of Object.entries(SIZES))
  test(`in Spanish one signs up, reads, writes, and is told of errors, on a ${size}`, async ({
    visitor,
    account,
  }) => {
    const omar = await visitor("omar", { ...options, ...SPANISH });
    const { page } = omar;
    omar.expects(/a status of (401|409)/);
    const looks = async (view: string) => {
      expect(await languageOf(omar)).toBe("es");
      await isAccessible(omar, view);
      await fits(omar, view);
    };
    await page.locator(".sign-in:not([data-first])").waitFor();
    await looks("signing in");
    await omar.button("Iniciar sesión").click();
    await page.getByText("Escribe un nombre de usuario.").waitFor();
    await page.getByLabel("Nombre de usuario").fill(omar.name);
    await page.getByLabel("Contraseña", { exact: true }).fill(PASSWORD);
    await omar.button("Iniciar sesión").click();
    await page.getByText("El nombre de usuario o la contraseña no son correctos.").waitFor();
    await page.getByRole("group", { name: "¿Es tu primera vez?" }).getByText("Crear cuenta").click();
    await omar.button("Crear cuenta").click();
    await page.getByRole("navigation", { name: "Salas" }).getByText("En línea", { exact: true }).waitFor();
    await page.getByText("Tres maneras de empezar:").waitFor();
    await looks("welcome");

    const diego = await account("diego");
    const topic = `charla ${omar.name}`;
    const room = await diego.topic(topic);
    await diego.say(room, "hola a todos");
    await omar.button("Tema nuevo").first().click();
    await page.getByLabel("Nombre del tema").fill(topic);
    await omar.button("Crear").click();
    await page.getByText("El nombre ya existe.").waitFor();
    await looks("a new topic");
    await omar.button("Cancelar").click();
    await omar.button("Buscar temas").click();
    await page.getByRole("searchbox", { name: "Filtrar los temas" }).fill(topic);
    await page
      .getByText("1 miembro · 1 en línea")
      .or(page.getByText("1 miembro", { exact: true }))
      .first()
      .waitFor();
    await looks("finding topics");
    await omar.button(`Entrar en ${topic}`).click();
    await page.getByRole("heading", { level: 1, name: topic }).waitFor();
    await page.getByText(/^2 miembros/).waitFor();
    await omar.log.getByText("Hoy", { exact: true }).waitFor();
    await omar.message("hola a todos").waitFor();
    await page.getByRole("textbox", { name: "Mensaje", exact: true }).focus();
    await page.keyboard.insertText("buenas");
    await page.keyboard.press("Enter");
    await omar.message("buenas").waitFor();
    await looks("a topic");
    await omar.button("Más sobre esta sala").click();
    await page.getByRole("menuitem", { name: "Ir a una fecha" }).waitFor();
    await looks("the room's menu");
    await page.keyboard.press("Escape");
    await omar.button("Miembros").click();
    await page.getByRole("heading", { name: /^En línea \([12]\)$/ }).waitFor();
    await looks("members");
  });

test("the language is chosen in the settings, and stays on the device", async ({ person }) => {
  const omar = await person("omar");
  const { page } = omar;
  const choose = async (settings: string, language: string) => {
    await omar.menu(settings === "Settings" ? "Account" : "Cuenta", settings);
    await page.getByRole("radio", { name: language }).click();
  };
  expect(await languageOf(omar)).toBe("en");
  await choose("Settings", "Español");
  await omar.button("Cuenta").waitFor();
  expect(await languageOf(omar)).toBe("es");
  await page.reload();
  await omar.button("Cuenta").waitFor();
  await choose("Ajustes", "El del navegador");
  await omar.button("Account").waitFor();
  expect(await languageOf(omar)).toBe("en");
});

test("the form that is there before the code is in the language of the page", async ({ visitor }) => {
  const omar = await visitor("omar", { ...SPANISH, serviceWorkers: "block" });
  const { page } = omar;
  await omar.context.route(/\/assets\/index-.*\.js/, () => undefined);
  await page.goto(omar.url, { waitUntil: "commit" });
  await omar.button("Iniciar sesión").waitFor();
  const shown = await page.locator("main").innerText();
  expect(shown).toContain("Contraseña");
  expect(shown).not.toContain("Password");
  await omar.context.unrouteAll();
});

test("an English page loads no translations, and a Spanish one without them is in English", async ({ visitor }) => {
  const asked: string[] = [];
  const omar = await visitor("omar", { serviceWorkers: "block" });
  omar.page.on("request", (request) => asked.push(request.url()));
  await omar.page.reload();
  await omar.page.waitForLoadState("networkidle");
  expect(asked.filter((url) => url.includes("SignedIn-")).length).toBeGreaterThan(0);
  expect(asked.filter((url) => url.includes("/es-"))).toEqual([]);
  const diego = await visitor("diego", { ...SPANISH, serviceWorkers: "block" });
  diego.expects(/net::ERR_FAILED/);
  await diego.context.route(/\/assets\/es-.*\.js/, (route) => route.abort());
  await diego.page.reload();
  await diego.button("Sign in").waitFor();
  expect(await languageOf(diego)).toBe("en");
});
