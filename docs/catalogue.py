"""Brings the catalogues of translations up to date with the code: `python -m docs.catalogue`, or `make catalogue`.

A text is marked where it stands: by `t`, `n`, `tx` or `m` on the page (web/src/i18n.ts), by `t`, `n` or `m` in the
terminal (tidings_chat/i18n.py), and as the message of an error on the server (`_errors`). New texts are added
without a translation, and unused ones are removed. With `--check` nothing is written; the exit status is 1 if a text
is not marked, or if a catalogue is not current or not complete.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

ROOT: Final = Path(__file__).resolve().parent.parent
LOCALES: Final = ROOT / "client_demo/tidings_chat/locale"
TERMINAL: Final = ROOT / "client_demo/tidings_chat"
SERVER: Final = ("actions", "auth", "contract/permissions.py", "log", "push", "gateways/rest.py")
"""Where the errors begin that users see."""

_MARKS: Final = {"t": (0,), "m": (0,), "n": (0, 1), "_command": (1, 2)}
"""Functions, and which of their arguments are texts. The second of `n` is the plural of the first."""
_SHOWN: Final = frozenset(
    (
        *("note", "heading", "Text", "append", "add_column", "print", "read_secret", "_usage"),
        *("ArgumentTypeError", "InvalidCommand", "SignedOut", "Busy", "Offline", "ProtocolError", "TidingsError"),
    )
)
"""Functions whose first argument is shown."""
_SHOWN_AS: Final = frozenset(("help", "description", "epilog", "title", "metavar"))
"""Arguments that are shown."""
_DATA: Final = frozenset(("username", "limit", "max_group", "until"))
"""The values in messages of the server that are not words."""
_COMMAND: Final = re.compile("/[a-z-]+")
_WORD: Final = re.compile(r"[A-Za-z]{3,}")
_SAME: Final = frozenset(
    ("User-Agent", "Authorization", "Bearer ", "Alt", "unknown system", "taken before", "/favourite [off]")
)
"""Written the same in every language, or no text."""
_NO_TEXT: Final = re.compile("^(class:|fg:|bold |noreverse |SELECT )")
_SENTENCE: Final = re.compile(r"^[A-Z][a-z]{2,}|[a-z],? [a-z]")
_PLACEHOLDER: Final = re.compile(r"\{\w+\}|%(?:\(\w+\))?[sr]")


@dataclass
class Texts:
    """The texts of the code, in the order of their files."""

    files: dict[str | tuple[str, str], list[str]] = field(default_factory=dict)
    """The files of a text; of one with a plural, the text is a pair."""
    problems: list[str] = field(default_factory=list)

    def add(self, text: str, plural: str | None, file: str) -> None:
        files = self.files.setdefault(text if plural is None else (text, plural), [])
        if file not in files:
            files.append(file)


def collect() -> Texts:
    """All marked texts, and where texts are not marked."""
    texts = Texts()
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))
    node = shutil.which("node", path=path) or "node"
    found = json.loads(subprocess.run((node, "texts.mjs"), cwd=ROOT / "web", check=True, capture_output=True).stdout)
    for text in found["messages"]:
        texts.add(text["text"], text.get("plural"), text["file"])
    for text in found["unmarked"]:
        texts.problems.append(f"{text['file']}:{text['line']}: {text['why']}: {text['text']!r}")
    # `__main__.py` runs without the packages that translate.
    for file in sorted(set(TERMINAL.glob("*.py")) - {TERMINAL / "__main__.py"}):
        Terminal(texts, file).visit(ast.parse(file.read_text("utf-8")))
    for part in SERVER:
        path = ROOT / "server/tidings" / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for text in _errors(ast.parse(file.read_text("utf-8"))):
                texts.add(text, None, str(file.relative_to(ROOT)))
    both = Counter(text if isinstance(text, str) else text[0] for text in texts.files)
    texts.problems += [f"with a plural and without one: {text!r}" for text, count in both.items() if count > 1]
    return texts


def _errors(tree: ast.Module) -> Iterator[str]:
    """The messages of errors, with placeholders for names and numbers; not those into which words are put."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("ActionError"), args=[_, message, *_]):
                yield from _messages(message)
            case ast.Call(func=ast.Name("not_found"), args=[ast.Constant(str(noun))]):
                yield f"no such {noun}"
            case ast.Call(func=ast.Name("not_found"), args=[]):
                yield "no such room"


def _messages(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(str(text)):
            yield text
        case ast.IfExp(body=one, orelse=other):
            yield from (*_messages(one), *_messages(other))
        case ast.JoinedStr(values=values):
            parts = [
                _placeholder(part) if isinstance(part, ast.FormattedValue) else str(part.value) for part in values
            ]
            if None not in parts:
                yield "".join(filter(None, parts))


def _placeholder(value: ast.FormattedValue) -> str | None:
    match value.value:
        case ast.Name(name) | ast.Attribute(attr=name) if name.lower() in _DATA:
            return f"{{{name.lower()}}}"
    return None


class Terminal(ast.NodeVisitor):
    """The texts of one module of the terminal client."""

    def __init__(self, texts: Texts, file: Path) -> None:
        self._texts = texts
        self._file = str(file.relative_to(ROOT))
        self._shown = False

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        marked = [
            node.args[at].value
            for at in _MARKS.get(name, ())
            if at < len(node.args) and isinstance(node.args[at], ast.Constant)
        ]
        if name == "n":
            self._texts.add(marked[0], marked[1], self._file)
        else:
            for text in filter(None, marked):
                self._texts.add(text, None, self._file)
        for at, argument in enumerate(node.args):
            if not (isinstance(argument, ast.Constant) and at in _MARKS.get(name, ())):
                self._visit(argument, shown=at == 0 and name in _SHOWN)
        for keyword in node.keywords:
            if keyword.arg != "style":
                self._visit(keyword.value, shown=keyword.arg in _SHOWN_AS)
        self._visit(node.func, shown=False)

    def _visit(self, node: ast.AST, *, shown: bool) -> None:
        before, self._shown = self._shown, shown
        self.visit(node)
        self._shown = before

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # else a docstring
            self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for part in (node.left, *node.comparators):
            if not isinstance(part, ast.Constant):
                self.visit(part)

    def visit_Constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, str) or node.value in _SAME or _NO_TEXT.match(node.value):
            return
        if (_WORD if self._shown else _SENTENCE).search(_COMMAND.sub("", node.value).strip()):
            self._texts.problems.append(f"{self._file}:{node.lineno}: not marked: {node.value!r}")


def updated(source: str, texts: Texts) -> str:
    """A catalogue with exactly these texts, and the translations that it has of them."""
    header, _, _ = source.partition("\n\n")
    known, catalogue = read_po(io.StringIO(source)), Catalog()
    for text, files in texts.files.items():
        old = known.get(text if isinstance(text, str) else text[0])
        same = old is not None and old.id == text
        catalogue.add(
            text,
            old.string if same else "" if isinstance(text, str) else ("", ""),
            locations=[(file, 0) for file in files],
            flags={"fuzzy"} if same and old.fuzzy else (),
            user_comments=old.user_comments if same else (),
        )
    written = io.BytesIO()
    write_po(written, catalogue, width=110, omit_header=True, include_lineno=False)
    return f"{header}\n\n{written.getvalue().decode().strip()}\n"


def incomplete(source: str) -> Iterator[str]:
    """What a catalogue lacks."""
    for message in read_po(io.StringIO(source)):
        if not message.id:
            continue
        one, *more = [message.id] if isinstance(message.id, str) else message.id
        strings = [message.string] if isinstance(message.string, str) else message.string
        if not all(strings):
            yield f"not translated: {one!r}"
        elif message.fuzzy:
            yield f"fuzzy: {one!r}"
        # A singular may leave its number out: "one message".
        wanted = Counter(_PLACEHOLDER.findall((more or [one])[-1]))
        for string in filter(None, strings):
            missing = wanted - Counter(_PLACEHOLDER.findall(string))
            extra = Counter(_PLACEHOLDER.findall(string)) - wanted
            if extra or (missing and not (more and string is strings[0] and set(missing) == {"{count}"})):
                yield f"other placeholders: {one!r}: {string!r}"


def main(arguments: list[str]) -> int:
    texts, check = collect(), "--check" in arguments
    problems = list(texts.problems)
    for path in sorted(LOCALES.glob("*.po")):
        source = path.read_text("utf-8")
        current = updated(source, texts)
        if not check:
            path.write_text(current, "utf-8")
        elif source != current:
            problems.append(f"{path.relative_to(ROOT)} is not current: make catalogue")
        problems += [f"{path.relative_to(ROOT)}: {problem}" for problem in incomplete(current)]
    print("\n".join(problems) or "The catalogues are complete.")
    return 1 if check and problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
