import { Check, Copy } from "lucide-react";
import type { Nodes, Table as TableNode, TableRow } from "mdast";
import { Component, type ComponentProps, Fragment, memo, type ReactNode, useEffect, useRef, useState } from "react";
import { t } from "../i18n.ts";
import type { Token } from "./highlight.ts";
import {
  hasTable,
  isEmojiOnly,
  isLong,
  isPlain,
  linkTarget,
  parsed,
  type Syntax,
  visibleIfFolded,
} from "./markdown.ts";

interface ContentProps {
  content: string;
  mentions: readonly string[];
  me: string;
  /** The origin of the page: links to it open in place. */
  here?: string;
}

/** The content of a message. */
export const Content = memo(function Content(props: ContentProps) {
  return (
    <UnlessBroken content={props.content} fallback={<AsTyped>{props.content}</AsTyped>}>
      <Formatted {...props} />
    </UnlessBroken>
  );
});

function Formatted({ content, mentions, me, here = window.location.href }: ContentProps) {
  if (isEmojiOnly(content)) return <p className="emoji-only">{content}</p>;
  if (isPlain(content)) return <p>{content}</p>;
  return <Parsed content={content} mentions={mentions} me={me} here={here} />;
}

let tables: Syntax | null = null;

/** Tables are shown as typed until their code is loaded, also if that fails. */
function Parsed({ content, mentions, me, here }: Required<ContentProps>) {
  const wanted = hasTable(content);
  const [syntax, setSyntax] = useState(tables);
  useEffect(() => {
    if (!wanted || tables !== null) return;
    import("./tables.ts").then(
      ({ TABLES }) => {
        tables = TABLES;
        setSyntax(TABLES);
      },
      () => undefined,
    );
  }, [wanted]);
  const tree = parsed(content, mentions, me, wanted ? (syntax ?? undefined) : undefined);
  return tree === null ? <AsTyped>{content}</AsTyped> : shown(tree, here);
}

function AsTyped({ children }: { children: string }) {
  return <p className="as-typed">{children}</p>;
}

interface UnlessBrokenProps {
  content: string;
  fallback: ReactNode;
  children: ReactNode;
}

/**
 * If one message cannot be rendered, its plain text is shown, and the page goes on. Another content is tried again, in
 * the same elements: a message that streams keeps the selection and the scroll offset of its code.
 */
class UnlessBroken extends Component<UnlessBrokenProps, { broken: boolean; content: string }> {
  override state = { broken: false, content: this.props.content };

  static getDerivedStateFromProps({ content }: UnlessBrokenProps, state: { content: string }) {
    return content === state.content ? null : { broken: false, content };
  }

  static getDerivedStateFromError(): { broken: boolean } {
    return { broken: true };
  }

  override render(): ReactNode {
    return this.state.broken ? this.props.fallback : this.props.children;
  }
}

/** The content, folded if it is long; not if it `grows`, also afterwards. `opened` has the ids of unfolded messages while their rows unmount and mount. */
export function Folded({
  id,
  opened,
  grows,
  ...rest
}: ComponentProps<typeof Content> & { id: string; opened: Set<string>; grows: boolean }) {
  const [open, setOpen] = useState(() => {
    if (grows) opened.add(id);
    return opened.has(id);
  });
  if (!isLong(rest.content)) return <Content {...rest} />;
  const toggle = () => {
    if (open) opened.delete(id);
    else opened.add(id);
    setOpen(!open);
  };
  return (
    <>
      <div className={open ? "" : "folded"}>
        <Content {...rest} content={open ? rest.content : visibleIfFolded(rest.content)} />
      </div>
      <button type="button" className="more" aria-expanded={open} onClick={toggle}>
        {open ? t("Show less") : t("Show more")}
      </button>
    </>
  );
}

/**
 * Render a node of the tree as an element. A node of an unknown type is shown by
 * its text. No node becomes HTML.
 */
function shown(node: Nodes, here: string): ReactNode {
  switch (node.type) {
    case "text":
      return node.value;
    case "break":
      return <br />;
    case "paragraph":
      return <p>{children(node, here)}</p>;
    case "strong":
      return <strong>{children(node, here)}</strong>;
    case "emphasis":
      if (node.data?.mention === undefined) return <em>{children(node, here)}</em>;
      return <span className={`mention ${node.data.mention}`}>{children(node, here)}</span>;
    case "delete":
      return <del>{children(node, here)}</del>;
    case "inlineCode":
      return <code>{node.value}</code>;
    case "code":
      return <Code language={node.lang ?? ""}>{node.value}</Code>;
    case "table":
      return <Table node={node} here={here} />;
    case "blockquote":
      return <blockquote>{children(node, here)}</blockquote>;
    case "list":
      return node.ordered ? <ol start={node.start ?? 1}>{children(node, here)}</ol> : <ul>{children(node, here)}</ul>;
    case "listItem":
      return <li>{node.spread ? children(node, here) : tight(node, here)}</li>;
    case "link":
      return <Link href={linkTarget(node.url, here)}>{children(node, here)}</Link>;
    default:
      if ("children" in node) return children(node, here);
      return "value" in node ? node.value : null;
  }
}

function children(node: Extract<Nodes, { children: unknown }>, here: string): ReactNode {
  // biome-ignore lint/suspicious/noArrayIndexKey: the tree of a content is always the same
  return node.children.map((child, index) => <Fragment key={index}>{shown(child, here)}</Fragment>);
}

/** In a list without blank lines, the items have no paragraphs. */
function tight(node: Extract<Nodes, { type: "listItem" }>, here: string): ReactNode {
  return node.children.map((child, index) => (
    // biome-ignore lint/suspicious/noArrayIndexKey: the tree of a content is always the same
    <Fragment key={index}>{child.type === "paragraph" ? children(child, here) : shown(child, here)}</Fragment>
  ));
}

function Link({ href, children }: { href: string | null; children: ReactNode }) {
  if (href === null) return children;
  if (href.startsWith("#")) return <a href={href}>{children}</a>;
  return (
    <a href={href} title={href} target="_blank" rel="noopener noreferrer nofollow">
      {children}
    </a>
  );
}

function Table({ node, here }: { node: TableNode; here: string }) {
  const [head, ...rows] = node.children;
  const cells = (row: TableRow, Cell: "th" | "td") =>
    row.children.map((cell, at) => (
      // biome-ignore lint/suspicious/noArrayIndexKey: the tree of a content is always the same
      <Cell key={at} className={node.align?.[at] ?? undefined}>
        {children(cell, here)}
      </Cell>
    ));
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls sideways has to be reached by keyboard
    <div className="table" tabIndex={0}>
      <table>
        <thead>{head !== undefined && <tr>{cells(head, "th")}</tr>}</thead>
        <tbody>
          {rows.map((row, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: see above
            <tr key={at}>{cells(row, "td")}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Longer code has no colours. */
const MOST_COLOURED = 20_000;

/** The parts of code that have a colour, once they are known. */
function useTokens(code: string, language: string): readonly Token[] | null {
  const [known, setKnown] = useState<{ readonly code: string; readonly tokens: readonly Token[] | null } | null>(
    null,
  );
  useEffect(() => {
    if (language === "" || code.length > MOST_COLOURED) return;
    let over = false;
    import("./highlight.ts")
      .then(({ highlighted }) => highlighted(code, language))
      .then(
        (tokens) => over || setKnown({ code, tokens }),
        () => undefined, // without its code, there are no colours
      );
    return () => {
      over = true;
    };
  }, [code, language]);
  return known?.code === code ? known.tokens : null;
}

function Code({ language, children: text }: { language: string; children: string }) {
  const tokens = useTokens(text, language);
  const code = useRef<HTMLPreElement>(null);
  const [copied, setCopied] = useState(false);
  const copy = () =>
    void navigator.clipboard?.writeText(code.current?.textContent ?? "").then(() => {
      setCopied(true);
      setTimeout(() => setCopied(false), 1500);
    });
  return (
    <div className="code-block">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls sideways has to be reached by keyboard */}
      <pre ref={code} tabIndex={0}>
        <code>
          {tokens === null
            ? text
            : tokens.map(({ kind, text }, at) => (
                // biome-ignore lint/suspicious/noArrayIndexKey: the parts of a code are always the same
                <span key={at} className={kind === "" ? undefined : `code-${kind}`}>
                  {text}
                </span>
              ))}
        </code>
      </pre>
      <button
        type="button"
        className="icon-button"
        aria-label={t("Copy code")}
        data-tip={t("Copy code")}
        onClick={copy}
      >
        {copied ? <Check size={16} /> : <Copy size={16} />}
      </button>
    </div>
  );
}
