"""Every text that users see is in the catalogue, and the catalogue is current and complete."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs import catalogue
from docs.catalogue import LOCALES, Texts, collect, incomplete, updated

WEB = Path(__file__).parents[2] / "web"
NODE = shutil.which("node") or str(Path(sys.executable).with_name("node"))

pytestmark = pytest.mark.skipif(not (WEB / "node_modules/vite").is_dir(), reason="the page's packages; make web")


@pytest.fixture(scope="module")
def texts() -> Texts:
    return collect()


def test_no_text_is_outside_of_the_catalogue(texts: Texts) -> None:
    assert texts.problems == []
    assert len(texts.files) > 700


@pytest.mark.parametrize("path", sorted(LOCALES.glob("*.po")), ids=lambda path: path.stem)
def test_each_catalogue_is_current_and_complete(texts: Texts, path: Path) -> None:
    source = path.read_text("utf-8")
    assert updated(source, texts) == source, "make catalogue"
    assert list(incomplete(source)) == []


@pytest.mark.parametrize(
    "shown",
    [
        "<p>Hello</p>",
        "<p>{name} left.</p>",
        '<input placeholder="name" />',
        '<button aria-label={busy ? t("Wait") : "go"}>{t("Go")}</button>',
        "<Field label={`${name} and more`} />",
        '<p>{busy && "Preparing…"}</p>',
        '<Row text="Everything is fine" />',
        '<p>{n("one", name, count)}</p>',
    ],
)
def test_a_text_of_the_page_that_is_not_marked_is_found(tmp_path: Path, shown: str) -> None:
    assert _of_page(tmp_path, f"export const View = ({{ busy, name, count }}) => {shown};")["unmarked"] != []


def test_texts_of_the_page_are_not_translated_before_there_are_translations(tmp_path: Path) -> None:
    assert _of_page(tmp_path, 'const LABEL = t("Send");')["unmarked"] != []
    found = _of_page(tmp_path, 'const LABEL = m("Send"); const View = () => <p title={t(LABEL)}>{t("Sent")}</p>;')
    assert found["unmarked"] == []
    assert [text["text"] for text in found["messages"]] == ["Send", "Sent", "In the page"]


def _of_page(folder: Path, source: str) -> dict[str, list[dict[str, str]]]:
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src/View.tsx").write_text(source)
    (folder / "index.html").write_text("<p><t>In the page</t></p>")
    answer = subprocess.run((NODE, WEB / "texts.mjs"), cwd=folder, check=True, capture_output=True, timeout=60)
    found: dict[str, list[dict[str, str]]] = json.loads(answer.stdout)
    return found


@pytest.mark.parametrize(
    "shown",
    [
        'print(render.note("nobody"))',
        'raise InvalidCommand("missing")',
        'row.append(f"  {name} online")',
        'parser.add_argument("room", help="which")',
        'reason = "the server is gone"',
        'print(f"{count} of {total} left")',
    ],
)
def test_a_text_of_the_terminal_that_is_not_marked_is_found(shown: str) -> None:
    texts = Texts()
    catalogue.Terminal(texts, catalogue.TERMINAL / "chat.py").visit(ast.parse(shown))
    assert len(texts.problems) == 1


def test_a_translation_with_other_placeholders_is_found() -> None:
    assert list(incomplete('msgid "{name} left"\nmsgstr "{nombre} ha salido"\n'))
    assert list(incomplete('msgid "gone"\nmsgstr ""\n'))
    assert list(incomplete('#, fuzzy\nmsgid "gone"\nmsgstr "ido"\n'))
    plural = 'msgid "{count} use"\nmsgid_plural "{count} uses"\nmsgstr[0] "un uso"\nmsgstr[1] "{count} usos"\n'
    assert list(incomplete(plural)) == []
    assert list(incomplete(plural.replace("{count} usos", "usos")))
