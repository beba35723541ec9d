"""`tidings webhook`, beside a running server."""

from __future__ import annotations

import time

import pytest

from tests.cli.conftest import Run, Start, command, serve, tidings
from tests.support.client import connected
from tests.webhooks.receiver import Receiver, verify

__all__ = ["command", "serve", "tidings"]

PRIVATE = {"TIDINGS_WEBHOOK_PRIVATE": "on"}


@pytest.mark.long
async def test_a_webhook_is_made_tested_replayed_and_deleted(serve: Start, command: Run, receiver: Receiver) -> None:
    server = await serve(**PRIVATE)
    token = (await command("token", "omar")).out.strip()
    async with connected(server.url, token) as omar:
        room_id = (await omar.ask("create", topic_name="noticias"))["room_id"]
        await omar.ask("create", topic_name="otra")
        arguments = ("create", receiver.url, "--event", "message", "--event", "reaction", "--room", "Noticias")
        created = (await command("webhook", *arguments, **PRIVATE)).out.split()
        assert created[::2] == ["id", "secret"]
        webhook_id, secret = created[1::2]
        assert (await command("webhook", "test", webhook_id, **PRIVATE)).out == "answered 200\n"
        verify(receiver.received[0], secret, time.time())
        listed = (await command("webhook", "list")).out
        assert f"{webhook_id}  {receiver.url}  message reaction  {room_id}\n" in listed
        assert secret not in listed
        for topic_name in ("otra", "noticias"):
            await omar.ask("message", topic_name=topic_name, content="hola")
        await receiver.until(lambda: len(receiver.accepted) == 2)
        verify(receiver.accepted[1], secret, time.time())
        assert receiver.accepted[1].place == (room_id, 1)
        await command("webhook", "replay", webhook_id, "--after", "0")
        await receiver.until(lambda: len(receiver.accepted) == 3)
        await command("webhook", "replay", webhook_id, "--room", room_id, "--since", "2026-01-31")
        await receiver.until(lambda: len(receiver.accepted) == 4)
        assert len({request.id for request in receiver.accepted[1:]}) == 1
        await command("webhook", "enable", webhook_id)
        await command("webhook", "delete", webhook_id)
        assert webhook_id not in (await command("webhook", "list")).out


async def test_what_is_not_possible_is_refused(command: Run) -> None:
    url = "https://example.org/hook"
    for arguments, reason in (
        (("create", "http://example.org/hook", "--event", "*"), "only https"),
        (("create", "https://127.0.0.1/hook", "--event", "*"), "TIDINGS_WEBHOOK_PRIVATE"),
        (("create", url, "--event", "typing"), "typing is not kept"),
        (("create", url, "--event", "a b"), "not the name of an event"),
        (("create", url, "--event", "*", "--room", "nowhere"), "no such room"),
        (("test", "none"), "no such webhook"),
        (("delete", "none"), "no such webhook"),
        (("enable", "none"), "no such webhook"),
        (("replay", "none", "--after", "1"), "no such webhook"),
    ):
        assert reason in (await command("webhook", *arguments, status=1)).err
    webhook_id = (await command("webhook", "create", url, "--event", "*")).out.split()[1]
    assert "name it" in (await command("webhook", "replay", webhook_id, "--after", "1", status=1)).err
    assert "since" in (await command("webhook", "replay", webhook_id, "--since", "yesterday", status=1)).err
