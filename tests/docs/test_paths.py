"""The files that the documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (
    "",
    "server/tidings",
    "server/tidings/contract",
    "server/tidings/fanout",
    "server/tidings/log",
    "server/tidings/gateways",
    "server/tidings/transport",
    "client_demo/tidings_chat",
    "tests/conformance",
    "tests/law",
    "tests/rest",
)
"""Paths in documents are relative to one of these."""
FOREIGN = {"config.py", "game.py", "gen_tokens.py", "start_server.py"}
"""Files of other systems, and of a reader's own application."""
NAMED = re.compile(r"`((?:[\w.]+/)*\w+\.py|(?:bench|client_demo|db|server|tests)/[\w./]*)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    missing = {
        name
        for name in NAMED.findall(document.read_text())
        if not any((ROOT / folder / name).exists() for folder in FOLDERS)
    }
    assert missing <= FOREIGN
