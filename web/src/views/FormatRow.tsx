import { Bold, Code, Italic, Link, List, Quote, SquareCode, Strikethrough } from "lucide-react";
import type { ReactNode } from "react";
import { m, t } from "../i18n.ts";
import { BY_KEY, type Format, format, STRIKE } from "./format.ts";
import { IconButton } from "./ui.tsx";

const FORMATS: readonly { label: string; icon: ReactNode; does: Format; keys?: string }[] = [
  { label: m("Bold"), icon: <Bold size={16} />, does: BY_KEY.b as Format, keys: "Ctrl B" },
  { label: m("Italic"), icon: <Italic size={16} />, does: BY_KEY.i as Format, keys: "Ctrl I" },
  { label: m("Struck through"), icon: <Strikethrough size={16} />, does: STRIKE, keys: "Ctrl Shift X" },
  { label: m("Code"), icon: <Code size={16} />, does: BY_KEY.e as Format, keys: "Ctrl E" },
  { label: m("Block of code"), icon: <SquareCode size={16} />, does: { around: ["```\n", "\n```"] } },
  { label: m("Quotation"), icon: <Quote size={16} />, does: { line: "> " } },
  { label: m("List"), icon: <List size={16} />, does: { line: "- " } },
  { label: m("Link"), icon: <Link size={16} />, does: { around: ["[", "](https://)"] } },
];

/** The buttons that format what is selected in a box. */
export function FormatRow({ area }: { area: () => HTMLTextAreaElement | null }) {
  return (
    <div role="toolbar" aria-label={t("Formatting")} className="format-row">
      {FORMATS.map(({ label, icon, does, keys }) => (
        <IconButton
          key={label}
          label={t(label)}
          {...(keys === undefined ? {} : { keys })}
          // The box keeps its selection.
          onMouseDown={(event) => event.preventDefault()}
          onClick={() => {
            const box = area();
            if (box !== null) format(box, does);
          }}
        >
          {icon}
        </IconButton>
      ))}
    </div>
  );
}
