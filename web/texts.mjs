/**
 * `node texts.mjs`: the texts of the page that are marked for translation, and those that a user may see and that are
 * not, as JSON. A text is marked by `t`, `n`, `tx` or `m` of src/i18n.ts, or by `<t>` in index.html.
 */
import { readdirSync, readFileSync } from "node:fs";
import { parseSync } from "vite";

const FUNCTIONS = { t: 1, tx: 1, m: 1, n: 2 };
/** Attributes whose text is shown or read out. */
const SHOWN =
  /^(title|label|placeholder|alt|hint|error|notice|aria-(label|description|roledescription|valuetext)|data-tip)$/;
/** Attributes that hold code. */
const CODE =
  /^(className|class|id|key|role|style|href|src|type|name|value|dir|lang|rel|target|autoComplete|tabId|defaultSelectedId|keys|data-keys)$/;
/** Written the same in every language, or no text: names, what one types in a search, selectors, values of the DOM. */
const SAME = new Set([
  ..."Tidings Bearer English Español Android Windows ChromeOS Linux Edge Opera Firefox Chrome Safari Arrow Files".split(
    " ",
  ),
  ..."from:ana in:plaza in:@ana has:link has:code has:file after:2026-01-31 before:2026-02-14".split(" "),
  ..."Enter Escape Tab Home End Delete".split(" "),
  "input, textarea, select",
  "read all",
  "sign out",
]);
/** Keys, which text.ts names, and selectors. */
const NO_TEXT = /^(Ctrl|Alt|Shift) |^[.([]/;
const WORDS = /\p{L}{2}/u;
const JOIN = /^ \p{L}+ $/u;
const SENTENCE = /^\p{Lu}\p{Ll}+|\p{L}[,:]? \p{L}|\p{L} ?…$/u;

const messages = [];
const unmarked = [];

for (const file of readdirSync("src", { recursive: true }).sort())
  if (/\.tsx?$/.test(file) && !/\.(gen|d)\.ts$/.test(file)) read(`src/${file}`);
for (const [, text] of readFileSync("index.html", "utf8").matchAll(/<t>(.*?)<\/t>/g))
  messages.push({ file: "web/index.html", text });
process.stdout.write(JSON.stringify({ messages, unmarked }));

function read(path) {
  const source = readFileSync(path, "utf8");
  const { program, errors } = parseSync(path, source);
  if (errors.length > 0) throw new Error(`${path}: ${errors[0].message}`);
  const lines = [0];
  for (let at = 0; at < source.length; at++) if (source[at] === "\n") lines.push(at + 1);
  const file = `web/${path}`;
  const report = (node, text, why) =>
    unmarked.push({ file, line: lines.findLastIndex((start) => start <= node.start) + 1, text, why });

  /** `shown`: yes, no, or perhaps, if the text looks like one. */
  function walk(node, shown, inFunction) {
    if (node === null || typeof node !== "object") return;
    if (Array.isArray(node)) {
      for (const one of node) walk(one, shown, inFunction);
      return;
    }
    const inside = (children, how = shown) => {
      for (const child of children) walk(child, how, inFunction);
    };
    switch (node.type) {
      case "ImportDeclaration":
      case "ExportAllDeclaration":
      case "ImportExpression":
      case "TSTypeAnnotation":
      case "TSTypeAliasDeclaration":
      case "TSInterfaceDeclaration":
      case "TSTypeParameterInstantiation":
      case "TSTypeParameterDeclaration":
        return;
      case "TSAsExpression":
      case "TSSatisfiesExpression":
        return walk(node.expression, shown, inFunction);
      case "ArrowFunctionExpression":
      case "FunctionDeclaration":
      case "FunctionExpression":
        inFunction = true;
        inside([...node.params, node.body], "perhaps");
        return;
      case "CallExpression":
      case "NewExpression": {
        const count = node.type === "CallExpression" ? FUNCTIONS[node.callee.name] : undefined;
        if (count === undefined) {
          // For developers: what users see of an error is a TidingsError.
          if (/^(Error|TypeError|RangeError)$/.test(node.callee.name ?? "")) return;
          inside([node.callee, ...node.arguments], "perhaps");
          return;
        }
        const texts = node.arguments.slice(0, count).map(textOf);
        if (!texts.includes(null)) {
          const [text, plural] = texts;
          messages.push({ file, text, ...(plural === undefined ? {} : { plural }) });
          if (!inFunction && node.callee.name !== "m")
            report(node, text, "translated before there are translations: use m");
        } else if (count > 1) report(node, source.slice(node.start, node.end), "not a literal");
        inside(node.arguments.slice(count), "perhaps");
        if (texts.includes(null)) inside(node.arguments.slice(0, count), "perhaps");
        return;
      }
      case "BinaryExpression":
        if (node.operator !== "+")
          return inside(
            [node.left, node.right].filter(({ type }) => type !== "Literal"),
            "perhaps",
          );
        break;
      case "SwitchCase":
        return inside(node.consequent, "perhaps");
      case "MemberExpression":
        return inside(
          [node.object, ...(node.computed && node.property.type !== "Literal" ? [node.property] : [])],
          "perhaps",
        );
      case "Property":
        return inside([node.value], shown);
      case "ConditionalExpression":
        inside([node.test], "perhaps");
        return inside([node.consequent, node.alternate]);
      case "LogicalExpression":
        inside([node.left], node.operator === "&&" ? "perhaps" : shown);
        return inside([node.right]);
      case "JSXAttribute": {
        const name = node.name.name;
        return walk(node.value, SHOWN.test(name) ? "yes" : CODE.test(name) ? "no" : "perhaps", inFunction);
      }
      case "JSXElement": {
        inside(node.openingElement.attributes, "perhaps");
        const code = /^(code|kbd)$/.test(node.openingElement.name.name ?? "");
        return inside(node.children, code ? "no" : "yes");
      }
      case "JSXText":
      case "Literal":
      case "TemplateElement": {
        const text = node.type === "TemplateElement" ? node.value.cooked : node.value;
        if (typeof text !== "string" || SAME.has(text.trim()) || NO_TEXT.test(text)) return;
        const seen = shown === "yes" ? WORDS : shown === "perhaps" ? SENTENCE : null;
        if (seen?.test(text.trim()) || (node.type === "TemplateElement" && shown !== "no" && JOIN.test(text)))
          report(node, text.trim(), "not marked");
        return;
      }
    }
    for (const [key, child] of Object.entries(node)) if (key !== "parent") walk(child, shown, inFunction);
  }
  walk(program, "perhaps", false);
}

/** The text of a literal, or of literals that are joined by +; null: not one. */
function textOf(node) {
  if (node.type === "Literal") return typeof node.value === "string" ? node.value : null;
  if (node.type === "TemplateLiteral" && node.expressions.length === 0) return node.quasis[0].value.cooked;
  if (node.type !== "BinaryExpression" || node.operator !== "+") return null;
  const [left, right] = [textOf(node.left), textOf(node.right)];
  return left === null || right === null ? null : left + right;
}
