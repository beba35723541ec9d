"""The test kit, as the tests of an application use it: the example, the document, and each operation."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.e2e.javascript import node
from tests.support.client import DEADLINE_S
from tidings.testing import Tidings, serve
from tidings_client import Client, Forbidden, Unavailable

PAGE = (ROOT / "docs/testing.md").read_text("utf-8")
EXAMPLE = ROOT / "examples/tested"
LIBRARY = ROOT / "clients/javascript"


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TIDINGS_PYTHON": sys.executable}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=110, check=False
    )


def pytest_in(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run(directory, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options)


def javascript_in(directory: Path) -> subprocess.CompletedProcess[str]:
    program = node()
    if not (LIBRARY / "dist/testing.js").exists():
        pytest.skip("the JavaScript library is not built: `make client`")
    (directory / "node_modules/@tidings").mkdir(parents=True)
    (directory / "node_modules/@tidings/client").symlink_to(LIBRARY)
    return run(directory, program, "--test")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example, copied."""
    return shutil.copytree(EXAMPLE, tmp_path / "tested", ignore=shutil.ignore_patterns("node_modules", "__pycache__"))


def test_the_tests_of_the_example_pass(example: Path) -> None:
    done = pytest_in(example)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_javascript_tests_of_the_example_pass(example: Path) -> None:
    done = javascript_in(example)
    assert done.returncode == 0, done.stdout + done.stderr


READY = 'await kitchen.publish("order.ready", {"number": number}, client_id=f"ready-{number}")'
REQUEST = 'topic_name=TOPIC, event="order.ready", data={"number": number}'
PLACED = 'await server.tidings.publish(TOPIC, "order.placed", {"number": number}, client_id=f"placed-{number}")'
PLANTED = {
    "it does not repeat after a lost answer": (
        READY,
        f"await client.actions.publish({REQUEST})",
        "test_nothing_is_cooked_twice_after_a_lost_answer",
    ),
    "what it repeats after a lost answer takes effect twice": (
        READY,
        f'await client.insist("publish", dict({REQUEST}))',
        "test_nothing_is_cooked_twice_after_a_lost_answer",
    ),
    "it answers before the order is stored": (
        PLACED,
        "import asyncio; asyncio.ensure_future(" + PLACED.removeprefix("await ") + ")",
        "test_an_order_is_refused_while_the_store_is_away",
    ),
    "an order reaches only cooks who are connected": (
        PLACED,
        'await server.tidings.publish(TOPIC, "order.placed", {"number": number}, transient=True)',
        "test_what_is_ordered_while_the_cook_is_cut_off_is_cooked",
    ),
    "it starts only with an empty database": (
        "if error.code is not ErrorCode.CONFLICT:",
        "if True:",
        "test_the_kitchen_goes_on_after_a_restart",
    ),
}


def test_each_bug_planted_in_the_example_is_found(example: Path) -> None:
    application = (example / "kitchen.py").read_text("utf-8")
    tests = (example / "test_kitchen.py").read_text("utf-8").replace("timeout(20)", "timeout(8)")
    selected = []
    for number, (right, wrong, test) in enumerate(PLANTED.values()):
        assert right in application
        (example / f"kitchen{number}.py").write_text(application.replace(right, wrong), "utf-8")
        (example / f"test_kitchen{number}.py").write_text(
            tests.replace("kitchen import", f"kitchen{number} import").replace('"kitchen:', f'"kitchen{number}:'),
            "utf-8",
        )
        selected.append(f"test_kitchen{number}.py::{test}")
    done = pytest_in(example, *selected)
    assert f"{len(PLANTED)} failed" in done.stdout, done.stdout
    assert "passed" not in done.stdout


def test_the_blocks_of_the_document_run_as_printed(tmp_path: Path) -> None:
    blocks = re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(blocks) == PAGE.count("```") // 2
    for name, source in blocks:
        (tmp_path / name).write_text(source, "utf-8")
    shutil.copy(EXAMPLE / "pytest.ini", tmp_path)
    done = pytest_in(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = javascript_in(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plugin_imports_neither_the_server_nor_the_packages_of_the_extra() -> None:
    program = (
        "import sys; [sys.modules.setdefault(n, None) for n in ('aiohttp', 'aiosqlite', 'httpx', 'socketio')]\n"
        "import tidings.testing.plugin; assert not sys.modules.keys() & {'fastapi', 'tidings.app', 'tidings_client'}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_lost_answer_that_nobody_asked_for_fails_the_test() -> None:
    with ExitStack() as stack:
        tidings = stack.enter_context(serve())
        tidings.lose_answer(("omar", "phone")).result()
        with pytest.raises(AssertionError, match="nobody asked"):
            stack.close()


async def test_an_action_waits_for_a_store_that_blocks(tidings: Tidings) -> None:
    async with asyncio.timeout(DEADLINE_S), tidings.client("omar") as omar:
        await omar.actions.create(topic_name="noticias")
        await tidings.stop_store(block=True)
        sending = asyncio.ensure_future(omar.actions.message(topic_name="noticias", content="Hola"))
        await asyncio.wait([sending], timeout=0.2)
        assert not sending.done()
        await tidings.resume_store()
        assert (await sending).seq == 1


async def test_a_refused_access_to_the_store_can_be_repeated(tidings: Tidings) -> None:
    async with tidings.client("omar") as omar:
        await tidings.stop_store()
        with pytest.raises(Unavailable) as refusal:
            await omar.actions.create(topic_name="noticias")
        assert refusal.value.retryable
        await tidings.resume_store()
        await omar.actions.create(topic_name="noticias")


async def test_a_mute_ends_when_time_is_advanced(tidings: Tidings) -> None:
    async with tidings.client("omar") as omar, tidings.client("diego") as diego:
        await omar.actions.create(topic_name="noticias")
        await diego.join("noticias")
        await omar.actions.mute(topic_name="noticias", username="diego", duration=20)
        await tidings.advance(15)
        assert not await may_write(diego)
        await tidings.advance(10)
        assert await may_write(diego)


async def test_a_silent_stream_ends_when_time_is_advanced(tidings: Tidings) -> None:
    async with asyncio.timeout(DEADLINE_S), tidings.client("omar") as omar:
        await omar.actions.create(topic_name="noticias")
        ended = asyncio.Event()
        omar.on("message_finished", lambda event: ended.set() if event["message"]["state"] == "interrupted" else None)
        stream = await omar.room(topic_name="noticias").stream().__aenter__()
        await stream.write("Ho")
        while not ended.is_set():  # the server looks twice
            await tidings.advance(120)
            await asyncio.wait([asyncio.ensure_future(ended.wait())], timeout=0.2)


async def may_write(client: Client) -> bool:
    try:
        await client.actions.message(topic_name="noticias", content="Hola")
    except Forbidden:
        return False
    return True


@pytest.fixture(scope="module")
def shared() -> Iterator[Tidings]:
    with serve() as running:
        yield running


@pytest.mark.parametrize("username", ["omar", "diego"])
async def test_a_server_of_a_module_serves_clients_of_the_loop_of_each_test(shared: Tidings, username: str) -> None:
    client = await shared.client(username)  # and ends with the loop
    assert client.username == username


@pytest.mark.long  # PostgreSQL only
async def test_two_nodes_share_a_database(postgresql_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDINGS_TEST_POSTGRES", postgresql_server)
    with serve(nodes=2) as tidings:
        async with asyncio.timeout(DEADLINE_S), tidings.client("omar") as omar, tidings.client("eva", node=1) as eva:
            await omar.actions.create(topic_name="noticias")
            noticias = await eva.join("noticias")
            await tidings.restart(node=1)
            await omar.room(topic_name="noticias").send("Hola")
            assert (await anext(noticias.messages())).content == "Hola"
        with pytest.raises(ValueError, match="PostgreSQL"):
            tidings.advance(1).result()


def test_with_anyio_and_without_postgresql(tmp_path: Path) -> None:
    (tmp_path / "test_anyio.py").write_text(
        "import pytest\n"
        "@pytest.mark.anyio\n"
        "@pytest.mark.parametrize('anyio_backend', ['asyncio'])\n"
        "async def test_it(tidings):\n"
        "    async with tidings.client('omar') as omar: await tidings.cut(omar)\n"
    )
    (tmp_path / "test_nodes.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def tidings_options(): return {'nodes': 2}\n"
        "def test_it(tidings): ...\n"
    )  # fmt: skip
    away = "TIDINGS_TEST_POSTGRES=postgresql+asyncpg://nobody@127.0.0.1:1/none"
    done = run(tmp_path, "env", away, sys.executable, "-m", "pytest", "-q", "-rs")
    assert "1 passed, 1 skipped" in done.stdout, done.stdout
    assert "TIDINGS_TEST_POSTGRES does not answer" in done.stdout
