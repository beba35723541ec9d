"""Messages of others cannot take over the terminal."""

from __future__ import annotations

import inspect
import io
import json
import re
import time

import pytest
from rich.color import Color, ColorSystem
from rich.console import Console, RenderableType

from tests.support.yardstick import slowdown
from tidings.contract.events import RoomChanged
from tidings.contract.models import Attachment, Message
from tidings_chat import colours, event_display, render
from tidings_chat.colours import CALL

NASTY = [
    "\x1b[2J\x1b]0;pwned\x07gone",  # clears the screen, sets the title
    "\x9b31mred",  # the same introducer in one byte
    "abc\u202edcba",  # reads backwards
    "line\roverwritten",
    "a\u2066b\u2029c",
]


def message(content: str, sender: str = "diego") -> Message:
    return Message(
        id="m1",
        room_id="r1",
        topic_name="noticias",
        seq=1,
        sender=sender,
        content=content,
        created_at="2026-01-31T09:30:00.250Z",
    )


def on_terminal(renderable: RenderableType, width: int = 60) -> str:
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system=None, width=width).print(renderable)
    return out.getvalue()


def drawn(content: str) -> str:
    return on_terminal(render.message(message(content), "omar", "#noticias"))


@pytest.mark.parametrize("content", NASTY)
def test_no_control_character_of_a_message_reaches_the_terminal(content: str) -> None:
    for shown in (drawn(content), render.plain(message(content), "#noticias"), render.as_json(message(content))):
        assert not set(shown) & set("\x1b\x07\x9b\u202e\r\u2066\u2029")


def test_a_second_line_of_a_message_cannot_imitate_another_message() -> None:
    forged = render.plain(message("the bank is closed", sender="omar"), "#noticias")
    for shown in (render.plain(message(f"hola\n{forged}"), "#noticias"), drawn(f"hola\n{forged}")):
        first, *others = shown.splitlines()
        assert "diego" in first
        assert "closed" in shown
        assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("content", [*NASTY, "día ☂ 👩\u200d🔧", "\ud800"])
def test_json_output_has_the_exact_content(content: str) -> None:
    line = render.as_json(message(content))
    assert "\n" not in line
    assert json.loads(line)["content"] == content


def test_lines_and_emoji_of_a_message_are_kept() -> None:
    shown = drawn("uno\ndos 👩\u200d🔧")
    assert "uno" in shown.splitlines()[0]
    assert "dos 👩\u200d🔧" in shown.splitlines()[1]


def test_markup_in_a_message_is_text() -> None:
    assert "[bold]no[/bold]" in drawn("[bold]no[/bold]")


@pytest.mark.parametrize(
    "unit", [">", "> ", "- ", "*a_ ", "_*", "http://a.b/&a;", "[/]", "[red]", "@ana ", "a\n", "\t", "e\u0301", "漢"]
)
def test_any_message_is_rendered_quickly_and_in_full(unit: str) -> None:
    content = (unit * 16_384)[:16_384]
    shown_message = message(content).model_copy(update={"mentions": ["ana", "omar"]})
    before = time.thread_time()
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print(render.message(shown_message, "omar"))
    console.print(render.changed("reaction", shown_message, shown_message, "omar"))
    assert (time.thread_time() - before) / slowdown() < 3
    shown = drawn(content)
    for sign in set(content) - set(" \n\t"):
        assert shown.count(sign) >= content.count(sign)


def test_only_mentions_of_the_reader_are_highlighted() -> None:
    shown_message = message("hola @omar y @omarito").model_copy(update={"mentions": ["omar"]})
    marked = [
        [text for span in cell.spans if str(span.style) == CALL for text in [cell.plain[span.start : span.end]]]
        for reader in ("omar", "maria")
        for cell in [render._text(shown_message, reader)]
    ]
    assert marked == [["@omar"], []]


def test_a_deleted_message_is_rendered_as_deleted_only() -> None:
    deleted = message("").model_copy(update={"deleted": True, "edited_at": "2026-01-31T09:31:00.250Z"})
    for shown in (render.message(deleted, "omar"), render.changed("message_edited", None, deleted, "omar")):
        out = io.StringIO()
        Console(file=out, color_system=None, width=60).print(shown)
        assert "(deleted)" in out.getvalue()
        assert "edited" not in out.getvalue()


def test_an_entry_without_a_rendering_shows_the_contracts_description() -> None:
    renamed = RoomChanged(room_id="r", seq=1, username="omar", title="Editors\x1b[2J")
    assert (
        render.entry(renamed, "#no\x1bticias").plain
        == "  #no�ticias: omar: The title has changed, or the purpose, the picture, or who may write."
    )


def _luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_colour_is_read_on_a_black_and_on_a_white_background() -> None:
    named = [value for value in vars(colours).values() if isinstance(value, str) and value.startswith("#")]
    assert len(named) >= 5
    for colour in {*named, *colours.PEOPLE}:
        of_256 = Color.parse(colour).downgrade(ColorSystem.EIGHT_BIT).get_truecolor().hex
        for shown, least in ((colour, 4.5), (of_256, 4.0)):
            luminance = _luminance(shown)
            assert 1.05 / (luminance + 0.05) >= least, f"{colour} on white"
            assert (luminance + 0.05) / 0.05 >= least, f"{colour} on black"
    source = inspect.getsource(render) + inspect.getsource(event_display)
    assert not re.findall(r"\b(?:dim|yellow|cyan|magenta|bright_\w+)\b", source), "the terminal's own colours"


def test_a_long_message_is_indented_under_its_own_text_and_one_of_another_room_is_one_line() -> None:
    long = "palabra " * 40 + "\nfin"
    lines = drawn(long).splitlines()
    first = lines[0].index("palabra")
    assert len(lines) > 3
    assert all(line[:first].strip() == "" for line in lines[1:])
    out = io.StringIO()
    Console(file=out, color_system=None, width=100).print(render.message(message(long), "maria", "#otra", brief=True))
    assert len(out.getvalue().splitlines()) == 1


@pytest.mark.parametrize("content", ["mira", ""])
def test_files_are_shown_with_numbers_and_cannot_move_the_cursor_or_reorder_the_line(content: str) -> None:
    hostile = "../evil\x1b[31m\u202egpj\n.txt"
    files = [
        Attachment(id="1", name=hostile, type="text/\x1b[0mx", size=3, alt="\x07a beach"),
        Attachment(id="2", name="plan.pdf", type="application/pdf", size=48_213),
    ]
    sent = message(content).model_copy(update={"files": files})
    lines = ['1.1 ../evil�[31m�gpj�.txt  3 bytes  text  "�a beach"', "1.2 plan.pdf  48.2 kB  pdf"]
    shown, brief = (on_terminal(render.message(sent, "omar", brief=brief), 100) for brief in (False, True))
    plain = render.plain(sent, "#noticias")
    for line in lines:
        assert line in shown
        assert line in plain
    assert f"diego {content} [../evil�[31m�gpj".replace("  ", " ") in brief
    for text in (shown, plain, brief):
        assert not set(text) & set("\x1b\x07\u202e")
