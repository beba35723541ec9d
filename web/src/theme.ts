/** Light, dark, or the system's setting. */
export type Theme = "system" | "light" | "dark";

const THEME = "tidings.theme";

export function loadTheme(): Theme {
  const kept = localStorage.getItem(THEME);
  return kept === "light" || kept === "dark" ? kept : "system";
}

/** Apply a theme, now and after a reload. */
export function chooseTheme(theme: Theme): void {
  if (theme === "system") localStorage.removeItem(THEME);
  else localStorage.setItem(THEME, theme);
  applyTheme();
}

export function applyTheme(): void {
  const theme = loadTheme();
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}
