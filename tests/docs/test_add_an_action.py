"""The code that docs/add-an-action.md shows exists in the named files."""

from __future__ import annotations

import re

from docs.generate import ROOT

PAGE = (ROOT / "docs/add-an-action.md").read_text("utf-8")


def test_every_code_block_is_in_the_file_named_before_it() -> None:
    checked = 0
    for block in re.finditer(r"^```(?:python|text|ts)\n(.*?)^```$", PAGE, re.M | re.S):
        before = PAGE[: block.start()]
        path = re.findall(r"`([A-Za-z_/]+\.(?:py|tsx?))`", before)[-1]
        code = (ROOT / path).read_text("utf-8")
        for piece in block[1].split("...\n"):
            assert piece.strip("\n") in code, f"not in {path}:\n{piece}"
            checked += 1
    assert checked > 10


def test_every_file_that_the_guide_names_exists() -> None:
    for path in re.findall(r"`((?:server|tests|db|client_demo|web)/[A-Za-z_/]*(?:\.py|\.tsx?)?)`", PAGE):
        assert (ROOT / path).exists(), path
