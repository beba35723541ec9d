"""The files that the documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import generate
from docs.generate import ROOT

DOCUMENTS = generate.pages()
FOLDERS = (
    ROOT,
    ROOT / "server/tidings",
    *(path for path in (ROOT / "server/tidings").iterdir() if path.is_dir()),
    ROOT / "client_demo/tidings_chat",
    ROOT / "tests/conformance",
    ROOT / "tests/law",
    ROOT / "tests/rest",
)
"""Paths in documents are relative to one of these."""
FOREIGN = {
    "config.py",
    "test_first.py",
    "test_orders.py",
    "game.py",
    "gen_tokens.py",
    "main.py",
    "orders.py",
    "start_server.py",
}
"""Files of other systems, and of a reader's own application."""
NAMED = re.compile(r"`((?:[\w.]+/)*\w+\.py|(?:bench|client_demo|db|examples|server|tests)/[\w./]*)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    missing = {
        name
        for name in NAMED.findall(document.read_text())
        if not any((folder / name).exists() for folder in FOLDERS)
    }
    assert missing <= FOREIGN
