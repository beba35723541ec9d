"""The documents agree with the code and with each other."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from bench import scaling
from docs import generate
from tidings.contract.events import EVENTS

PAGES = generate.pages()
PROTOCOL = (generate.ROOT / "docs/protocol.md").read_text("utf-8")


@pytest.mark.parametrize("path", [*PAGES, generate.EXAMPLE, scaling.PLOT], ids=lambda path: path.name)
def test_nothing_generated_is_stale(path: Path) -> None:
    assert not generate.is_stale(path), f"{path.name} is stale: run `make docs`"


def test_every_generated_part_is_in_exactly_one_page() -> None:
    parts = [part for page in PAGES for part in re.findall(r"<!-- generated: (.*?) -->", page.read_text("utf-8"))]
    assert sorted(parts) == sorted(generate.PARTS)


def test_the_protocol_documents_every_action_and_event() -> None:
    for action in generate.registry():
        assert f"### {action.name} (action)\n" in PROTOCOL
        for name in (action.name, *action.aliases):
            assert f"`{name}`" in PROTOCOL
        for field in action.request.model_fields:
            assert f"| `{field}` |" in PROTOCOL
    for event in EVENTS:
        assert f"| `{event}` |" in PROTOCOL


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_has_an_existing_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page.read_text("utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(to.read_text("utf-8")), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_step_down_by_one_level(page: Path) -> None:
    levels = [len(marks) for marks in re.findall(r"^(#+) ", _prose(page.read_text("utf-8")), re.M)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("page", sorted((generate.ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_a_page_says_at_its_top_who_it_is_for(page: Path) -> None:
    assert re.match(r"# .+\n\n\*For [^*]+\*\n\n", page.read_text("utf-8"))


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", _prose(text), re.M):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        assert name not in anchors, f"two headings are named {name}"
        anchors.add(name)
    return anchors
