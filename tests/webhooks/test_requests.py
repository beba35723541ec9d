"""Where a webhook may go, how long it waits, and what is refused."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client import connected
from tests.support.look_ups import Names
from tests.support.node import RunningNode, running_node
from tests.webhooks.conftest import FAST, Admin, GetAdmin
from tests.webhooks.receiver import Receiver, Request, verify
from tidings.contract.errors import ActionError
from tidings.transport.addresses import is_public_address
from tidings.transport.outgoing import DeliveryOutcome, check_url
from tidings.webhooks.sending import ALLOWED_BY, Sender, check_events, new_secret

SECRET = new_secret()

PUBLIC = ("1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1")
NOT_PUBLIC = (
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::7f00:1",
    "64:ff9b:1::101:101",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_within_networks_is_refused_in_every_notation(address: str) -> None:
    assert not is_public_address(address)
    if "%" not in address:
        host = f"[{address}]" if ":" in address else address
        with pytest.raises(ActionError, match="public"):
            check_url(f"https://{host}/hook", private=False, allowed_by=ALLOWED_BY)
        assert check_url(f"http://{host}/hook", private=True, allowed_by=ALLOWED_BY)
    assert ipaddress.ip_address(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1", "2130706433", "[::1]"])
async def test_this_machine_is_refused_where_it_is_connected_to(host: str, receiver: Receiver) -> None:
    """Also by a name, which the check of the URL cannot refuse."""
    sender = Sender(private=False)
    url = receiver.url.replace("127.0.0.1", host).replace("http:", "https:")
    result = await sender.send(url, SECRET, "msg_1", b"{}")
    await sender.close()
    assert (result.outcome, result.status) == (DeliveryOutcome.FORBIDDEN, None)
    assert "not a public address" in result.reason
    assert receiver.connections == 0


async def test_a_name_that_leads_inwards_later_is_refused_then(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the address that was checked is the one that is connected to, and each time anew."""
    names = Names(monkeypatch, ["10.0.0.1", "127.0.0.1"])
    sender = Sender(private=False)
    url = receiver.url.replace("127.0.0.1", "hook.test").replace("http:", "https:")
    assert check_url(url, private=False, allowed_by=ALLOWED_BY) == url
    for count in (1, 2):
        assert (await sender.send(url, SECRET, "msg_1", b"{}")).outcome is DeliveryOutcome.FORBIDDEN
        assert names.asked == count
    await sender.close()
    assert receiver.connections == 0


async def test_the_checked_address_is_connected_to_without_another_look_up(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    monkeypatch.setattr("tidings.transport.outgoing.is_public_address", lambda address: address == "127.0.0.2")
    sender = Sender(private=False)
    url = receiver.url.replace("127.0.0.1", "hook.test").replace("http:", "https:")
    result = await sender.send(url, SECRET, "msg_1", b"{}")
    await sender.close()
    assert result.outcome is DeliveryOutcome.UNREACHABLE
    assert (names.asked, receiver.connections) == (1, 0)


async def test_the_host_of_the_url_is_asked_for_at_the_address_of_its_name(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, ["127.0.0.2", "127.0.0.1"])  # nothing listens at the first
    sender = Sender(private=True)
    url = receiver.url.replace("127.0.0.1", "hook.test")
    for number in range(3):
        result = await sender.send(url + "?a=b", SECRET, f"msg_{number}", b"{}")
        assert (result.outcome, result.status) == (DeliveryOutcome.DELIVERED, 200)
    await sender.close()
    (request, *_) = receiver.received
    assert request.path == "/hook?a=b"
    assert request.headers["host"] == url.split("/")[2]
    assert receiver.connections == 1, "connections are kept"


async def test_http_is_refused_also_if_it_was_allowed_before(receiver: Receiver) -> None:
    sender = Sender(private=False)
    assert (await sender.send(receiver.url, SECRET, "msg_1", b"{}")).outcome is DeliveryOutcome.FORBIDDEN
    await sender.close()
    assert receiver.connections == 0


async def test_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    sender = Sender(private=True)
    assert (await sender.send(receiver.url, SECRET, "msg_1", b"{}")).delivered
    await sender.close()


async def _answers(
    receiver: Receiver, answer: int | bytes, *, answer_s: float = 15.0
) -> tuple[DeliveryOutcome, int | None]:
    async def behaves(_request: Request) -> int | bytes:
        return answer

    receiver.behaviour = behaves
    sender = Sender(private=True, answer_s=answer_s)
    try:
        result = await sender.send(receiver.url, SECRET, "msg_1", b"{}")
    finally:
        await sender.close()
    return result.outcome, result.status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_is_not_followed(receiver: Receiver, status: int) -> None:
    answer = b"HTTP/1.1 %d X\r\nlocation: %s/inside\r\ncontent-length: 0\r\n\r\n" % (status, receiver.url.encode())
    assert await _answers(receiver, answer) == (DeliveryOutcome.REFUSED, status)
    assert [request.path for request in receiver.received] == ["/hook"]


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
async def test_other_answers_are_failures(receiver: Receiver, status: int) -> None:
    assert await _answers(receiver, status) == (DeliveryOutcome.REFUSED, status)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5_000_000, DeliveryOutcome.DELIVERED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n" + b"x" * 100_000, DeliveryOutcome.DELIVERED),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nxxx", DeliveryOutcome.DELIVERED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nx", DeliveryOutcome.TIMEOUT),
        (b"HTTP/1.1 200 OK\r\n", DeliveryOutcome.TIMEOUT),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 5_000_000, DeliveryOutcome.UNREACHABLE),
        (b"no HTTP\r\n\r\n", DeliveryOutcome.UNREACHABLE),
    ],
    ids=["endless", "long", "not-gzip", "short", "no-head", "endless-head", "no-http"],
)
async def test_an_answer_of_any_form_ends_in_time(
    receiver: Receiver, answer: bytes, outcome: DeliveryOutcome
) -> None:
    async with asyncio.timeout(30):
        assert (await _answers(receiver, answer, answer_s=1.0))[0] is outcome


async def test_nobody_listening_is_a_failure(receiver: Receiver) -> None:
    await receiver.kill()
    assert await _answers(receiver, 200) == (DeliveryOutcome.UNREACHABLE, None)


# -- bad input -------------------------------------------------------------------------------------------------------

BAD_URLS = (
    "",
    "hook",
    "/hook",
    "//example.org/hook",
    "http://example.org/hook",
    "ftp://example.org/hook",
    "file:///etc/passwd",
    "https://",
    "https:///hook",
    "https://example.org:0/",
    "https://example.org:99999/",
    "https://example.org:x/",
    "https://[::1",
    "https://omar:secret@example.org/",
    "https://example.org/#part",
    "https://example.org/a b",
    "https://example.org/\r\nx: y",
    "https://example.org/ñ",
    "https://exämple.org/",
    "https://example.org\\@127.0.0.1/",
)


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_is_not_possible_is_invalid(url: str) -> None:
    with pytest.raises(ActionError) as refused:
        check_url(url, private=False, allowed_by=ALLOWED_BY)
    assert refused.value.code == "invalid"


@pytest.mark.parametrize(
    "name", ["typing", "presence", "receipt", "ready", "closing", "room_added", "", "a b", "1", "**"]
)
def test_an_event_that_is_no_entry_is_invalid(name: str) -> None:
    with pytest.raises(ActionError) as refused:
        check_events(["message", name])
    assert refused.value.code == "invalid"


def test_events_of_logs_and_of_applications_are_possible() -> None:
    assert check_events(["message", "order.paid", "*", "message"]) == ["*", "message", "order.paid"]


async def test_bad_requests_are_refused_and_change_nothing(server: RunningNode, admin: Admin) -> None:
    webhook = await admin.create("https://example.org/hook", "*")
    good: dict[str, Any] = {"url": "https://example.org/hook", "events": ["message"]}
    for fields in (
        {},
        {"url": "https://example.org/"},
        {"events": ["message"]},
        good | {"url": 7},
        good | {"url": "ftp://example.org/"},
        good | {"url": "https://example.org/" + "x" * 2048},
        good | {"events": []},
        good | {"events": "message"},
        good | {"events": ["typing"]},
        good | {"events": ["a b"]},
        good | {"events": ["message"] * 65},
        good | {"room_id": 7},
        good | {"secret": "mine"},
    ):
        assert await admin.code("POST", **fields) == "invalid", fields
    async with connected(server.url, await server.register("omar")) as omar:  # a room without a name
        await omar.ask("create_conversation", usernames=["root"], title="uno")
    assert await admin.code("POST", **good, room_id="nowhere") == "not_found"
    replay = f"/{webhook['webhook_id']}/replay"
    for fields in (
        {},
        {"after": 1},
        {"after": -1},
        {"after": "x"},
        {"after": 1, "since": "2026-01-31T09:30:00.250Z"},
        {"since": "yesterday"},
        {"since": "2026-99-31T09:30:00.250Z"},
    ):
        assert await admin.code("POST", replay, **fields) == "invalid", fields
    assert await admin.code("POST", replay, after=1, room_id="nowhere") == "not_found"
    for method, path, fields in (
        ("DELETE", "/none", {}),
        ("POST", "/none/test", {}),
        ("POST", "/none/enable", {}),
        ("POST", "/none/replay", {"since": "2026-01-31T09:30:00.250Z"}),
    ):
        assert await admin.code(method, path, **fields) == "not_found"
    listed = (await admin.ask("GET"))["webhooks"]
    assert [each["webhook_id"] for each in listed] == [webhook["webhook_id"]]
    assert "whsec_" not in str(listed)


async def test_a_replay_of_another_room_is_invalid(server: RunningNode, admin: Admin) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        uno, dos = [(await omar.ask("create", topic_name=name))["room_id"] for name in ("uno", "dos")]
    webhook = await admin.create("https://example.org/hook", room_id=uno)
    path = f"/{webhook['webhook_id']}/replay"
    assert await admin.code("POST", path, after=0, room_id=dos) == "invalid"
    assert await admin.ask("POST", path, after=0) == {}


async def test_only_administrators_manage_webhooks(server: RunningNode, admin: Admin) -> None:
    webhook_id = (await admin.create("https://example.org/hook"))["webhook_id"]
    headers = {"Authorization": f"Bearer {await server.register('omar')}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30) as http:
        omar = Admin(http)
        for method, path, fields in (
            ("GET", "", {}),
            ("POST", "", {"url": "https://example.org/hook", "events": ["message"]}),
            ("DELETE", f"/{webhook_id}", {}),
            ("DELETE", "/none", {}),
            ("POST", f"/{webhook_id}/test", {}),
            ("POST", f"/{webhook_id}/enable", {}),
            ("POST", f"/{webhook_id}/replay", {"since": "2026-01-31T09:30:00.250Z"}),
        ):
            assert await omar.code(method, path, **fields) == "forbidden"
    assert (await admin.listed(webhook_id))["disabled_at"] is None


async def test_a_test_is_sent_now_and_answered_with_the_status(
    server: RunningNode, admin: Admin, receiver: Receiver
) -> None:
    webhook = await admin.create(receiver.url)
    path = f"/{webhook['webhook_id']}/test"
    assert await admin.ask("POST", path) == {"delivered": True, "status": 200, "reason": "answered 200"}
    (request,) = receiver.received
    verify(request, webhook["secret"], server.node.webhooks._clock())
    assert request.body["type"] == "webhook.test"
    assert request.data == {"webhook_id": webhook["webhook_id"]}
    await receiver.kill()
    answer = await admin.ask("POST", path)
    assert (answer["delivered"], answer["status"]) == (False, None)


async def test_private_addresses_need_the_setting(
    database_url: str, tmp_path: Path, admin_of: GetAdmin, receiver: Receiver
) -> None:
    async with running_node(database_url, tmp_path, options=FAST) as node:
        admin = await admin_of(node)
        assert await admin.code("POST", url=receiver.url, events=["message"]) == "invalid"
        url = receiver.url.replace("http:", "https:")
        assert await admin.code("POST", url=url, events=["message"]) == "invalid"
        webhook = await admin.create(url.replace("127.0.0.1", "localhost"))
        answer = await admin.ask("POST", f"/{webhook['webhook_id']}/test")
        assert not answer["delivered"]
        async with connected(node.url, await node.register("omar")) as omar:
            await omar.ask("create", topic_name="noticias")
            await omar.ask("message", topic_name="noticias", content="hola")
        async with asyncio.timeout(30):
            while (await admin.listed(webhook["webhook_id"]))["failing_since"] is None:
                pass  # each request is a round trip
        assert node.node.webhooks.outcomes["forbidden"] > 0
    assert receiver.connections == 0
