/** Tables in messages (GitHub Flavored Markdown, 4.10): loaded when a message has one. */
import { gfmTableFromMarkdown } from "mdast-util-gfm-table";
import { gfmTable } from "micromark-extension-gfm-table";
import type { Syntax } from "./markdown.ts";

export const TABLES: Syntax = { extension: gfmTable(), mdastExtension: gfmTableFromMarkdown() };
