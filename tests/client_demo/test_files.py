"""Files in the terminal: sent and saved, in the chat and by scripts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client_demo.conftest import Cli, People, Server, Terminals
from tests.files.support import picture
from tests.support.node import running_node

HOSTILE = "../../evil\x1b[31m\u202egpj.txt"


@pytest.fixture
async def server(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Server]:
    async with running_node(sqlite_url, tmp_path, file_bytes=100_000) as node:
        yield node


async def test_a_script_sends_files_and_another_user_saves_them_without_replacing_any(
    cli: Cli, people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people.topic("noticias", "omar", "diego")
    (tmp_path / "plan.txt").write_text("uno")
    (tmp_path / "datos.bin").write_bytes(b"\0\xff")
    paths = [str(tmp_path / name) for name in ("plan.txt", "datos.bin")]
    sent = json.loads(await cli("omar", "send", "--json", "noticias", "mira", "--file", paths[0], "--file", paths[1]))
    assert [(file["name"], file["size"]) for file in sent["files"]] == [("plan.txt", 3), ("datos.bin", 2)]
    await cli("omar", "send", "noticias", "--file", paths[0])
    _, *shown = (await cli("diego", "history", "noticias")).splitlines()
    assert shown[:2] == ["    1.1 plan.txt  3 bytes  text", "    1.2 datos.bin  2 bytes  file"]
    assert shown[2].endswith("omar: 2.1 plan.txt  3 bytes  text")
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for _ in range(2):
        await cli("diego", "save", "noticias", "1")
    await cli("diego", "save", "noticias", "1.1", "otro nombre.txt")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "plan.txt": b"uno",
        "plan (2).txt": b"uno",
        "datos.bin": b"\0\xff",
        "datos (2).bin": b"\0\xff",
        "otro nombre.txt": b"uno",
    }
    for arguments, error in (
        (("save", "noticias", "1.1", "plan.txt"), "there is a file plan.txt already"),
        (("save", "noticias", "1.3"), "message 1.3 has no such file"),
        (("send", "noticias", "--file", "none"), "there is no none"),
        (("send", "noticias", "--file", "."), ". is a folder"),
    ):
        assert await cli.run("diego", *arguments) == (1, "", f"{error}\n")
    (tmp_path / "large").write_bytes(bytes(100_001))
    status, _, err = await cli.run("omar", "send", "noticias", "--file", str(tmp_path / "large"))
    assert (status, err) == (1, "too_large: the file is too large\n")


@pytest.mark.long
async def test_a_file_is_sent_and_saved_in_the_chat_whatever_its_name(
    terminals: Terminals, people: People, tmp_path: Path
) -> None:
    await people.topic("noticias", "omar", "diego")
    folder = tmp_path / "mi carpeta"
    folder.mkdir()
    (folder / "plan.txt").write_text("uno")
    (folder / "large.bin").write_bytes(bytes(100_001))
    omar, diego = terminals.open("omar"), terminals.open("diego")
    for terminal in (omar, diego):
        await terminal.sees("/help lists the commands, Tab")
        terminal.type("/open noticias")
        await terminal.sees("#noticias ›")
    omar.type(f'/send "{folder}/plan.txt" el plan')
    for terminal in (omar, diego):
        await terminal.sees(r"el plan\s+1\.1 plan\.txt  3 bytes  text")
    for path, error in (("none", "there is no none"), (f'"{folder}"', "is a folder")):
        omar.type(f"/send {path}")
        await omar.sees(error)
    omar.type(f'/send "{folder}/large.bin"')
    await omar.sees(r"not sent: \[large\.bin\] — the file is too large")
    hostile = await people.upload("omar", HOSTILE, b"dos")
    await people.ask("omar", "POST", "/api/messages", topic_name="noticias", content="", files=[{"id": hostile}])
    await diego.sees(r"2\.1 evil\[31mgpj\.txt  3 bytes  text")
    for times in (1, 2):
        diego.type(f"/save 2.1 {folder}")
        await diego.sees(r"saved: ", times=times)
    diego.type(f'/save 1 "{folder}/plan.txt"')
    await diego.sees("there is a file")
    diego.type("/save 7")
    await diego.sees("there is no message 7 here")
    assert {path.name: path.read_text() for path in folder.glob("*.txt")} == {
        "plan.txt": "uno",
        "evil[31mgpj.txt": "dos",
        "evil[31mgpj (2).txt": "dos",
    }


@pytest.mark.long
async def test_a_picture_of_a_room_is_told_of_as_one_and_does_not_change_its_purpose(
    terminals: Terminals, people: People
) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.ask("omar", "PUT", "/api/purpose", topic_name="noticias", purpose="the city")
    diego = terminals.open("diego")
    await diego.sees("/help lists the commands, Tab")
    diego.type("/open noticias")
    await diego.sees("#noticias ›")
    image = await people.upload("omar", "desk.png", picture((40, 30), "PNG"))
    await people.ask("omar", "PUT", "/api/picture", topic_name="noticias", picture=image)
    await diego.sees("omar changed the picture of #noticias")
    await people.ask("omar", "PUT", "/api/picture", topic_name="noticias", picture=None)
    await diego.sees("omar removed the picture of #noticias")
    assert "has no purpose now" not in diego.text
