import type { Construct } from "micromark-util-types";

/**
 * Stands for the parts of the Markdown parser that find HTML: the page takes it for text, so they would be loaded and then
 * turned off.
 */
export const htmlFlow: Construct = { name: "htmlFlow", tokenize: (_effects, _ok, nok) => nok };
export const htmlText: Construct = { name: "htmlText", tokenize: (_effects, _ok, nok) => nok };
