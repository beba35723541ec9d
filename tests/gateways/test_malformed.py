"""Input that is not Socket.IO, or not an action, ends as documented, without a traceback or an effect on others."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from tests.gateways.raw import Raw, closing_of, dumps, entered, opened, polling
from tests.support.depth import examples
from tests.support.node import RunningNode

BROKEN = {
    "deep nesting": "42" + "[" * 100_000,
    "deep nesting, closed": "42" + "[" * 100_000 + "]" * 100_000,
    "deep objects": '42["message",' + '{"a":' * 50_000 + "1" + "}" * 50_001 + "]",
    "no event": "42[]",
    "null event": "42null",
    "object event": "42{}",
    "number event": "421",
    "text event": '42"message"',
    "nothing": "42",
    "not JSON": "42[message]",
    "half an event": '42["message",{"content":"a',
    "two events": '42["get_rooms"]["get_rooms"]',
    "not a number": '42["message",{"content":NaN}]',
    "an id without end": "42" + "1" * 101 + '["get_rooms"]',
    "an integer without end": '42["read",{"seq":' + "9" * 5000 + "}]",
    "packet type 7": '47["message",{}]',
    "packet type 9": "49",
    "packet type of another script": '4٣["message",{}]',
    "packet type that is only like a digit": '4²["message",{}]',
    "no packet type": "4",
    "letters": "4hello",
    "connect error from a client": '44{"message":"no"}',
    "a second connect": '40{"token":"x"}',
    "an event of another namespace": '42/admin,["get_rooms"]',
    "attachments announced in an event without binary": '451-["get_rooms"',
    "no attachments in a binary event": '450-["get_rooms"]',
    "too many attachments": '45999-["get_rooms",{"_placeholder":true,"num":0}]',
    "attachments beyond counting": '4599999999999999-["get_rooms"]',
    "an Engine.IO OPEN": '0{"sid":"x"}',
    "an Engine.IO PING": "2",
    "an unknown Engine.IO type": "8",
    "an empty frame": "",
    "an unexpected binary frame": b"\x00\x01\x02",
    "an empty binary frame": b"",
}


async def test_a_broken_packet_ends_its_own_connection_and_no_other(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    async with entered(gateway.url, token) as bystander:
        for case, broken in BROKEN.items():
            async with entered(gateway.url, token) as raw:
                await raw.send(broken)
                packets = await raw.until_closed()
            assert closing_of(packets) == {"reason": "protocol_error", "reconnect": False}, case
            assert packets[-1] == "41", f"{case}: a stock client must not reconnect and send the same bytes"
            await bystander.is_alive()


async def test_a_server_error_does_not_close_the_connection_as_a_protocol_error(
    gateway: RunningNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_args: object) -> None:
        raise LookupError("an error of the server")

    token = await gateway.register("omar")
    async with entered(gateway.url, token) as raw:
        monkeypatch.setattr(gateway.node.socketio.server._listener, "event", fails)
        await raw.send('42["get_rooms"]')
        assert closing_of(await raw.until_closed()) == {"reason": "shutdown", "reconnect": True}
    assert "an error of the server" in caplog.text
    caplog.clear()  # only this test may log a traceback


NOWHERE: dict[str, object] = {
    "beyond the attachments": 1,
    "a text": "0",
    "nothing": None,
    "a fraction": 0.5,
    "a list": [0],
}


async def test_a_placeholder_that_points_nowhere_is_a_protocol_error(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    for case, number in NOWHERE.items():
        async with entered(gateway.url, token) as raw:
            event = ["message", {"content": {"_placeholder": True, "num": number}}]
            await raw.send("451-1" + dumps(event), b"bytes")
            assert closing_of(await raw.until_closed())["reason"] == "protocol_error", case


async def test_binary_in_an_action_is_an_invalid_field_and_the_connection_stays(gateway: RunningNode) -> None:
    async with entered(gateway.url, await gateway.register("omar")) as raw:
        event = dumps(["message", {"topic_name": "x", "content": {"_placeholder": True, "num": 0}}])
        await raw.send("451-77" + event, b"\x00\xff")
        (answer,) = await raw.until("4377")
        assert answer["error"]["code"] == "invalid"
        assert "content" in answer["error"]["details"]["fields"]
        await raw.is_alive()


async def test_binary_as_the_name_of_an_action_is_answered(gateway: RunningNode) -> None:
    async with entered(gateway.url, await gateway.register("omar")) as raw:
        await raw.send("451-7" + dumps([{"_placeholder": True, "num": 0}]), b"message")
        (answer,) = await raw.until("437")
        assert answer["error"]["code"] == "unknown_action"
        await raw.is_alive()


async def test_unsolicited_acknowledgements_are_ignored(gateway: RunningNode) -> None:
    async with entered(gateway.url, await gateway.register("omar")) as raw:
        await raw.send("431[]", '43["x"]', "43", '461-9[{"_placeholder":true,"num":0}]', b"x")
        await raw.is_alive()


TEXTS = {
    "a lone high surrogate": r"\ud800",
    "a lone low surrogate": r"\udc00x",
    "surrogates in the wrong order": r"\udc00\ud800",
    "U+0000": r"\u0000",
    "U+0000 between letters": r"a\u0000b",
}


async def test_text_that_no_store_can_hold_is_refused_in_every_field(server: RunningNode) -> None:
    token = await server.register("omar")
    async with entered(server.url, token) as raw:
        await raw.ask("create", {"topic_name": "noticias"})
        for case, text in TEXTS.items():
            for event in (
                f'["message",{{"topic_name":"noticias","content":"{text}"}}]',
                f'["message",{{"topic_name":"noticias","content":"x","client_id":"{text}"}}]',
                f'["message",{{"topic_name":"noticias","content":"x","reply_to":"{text}"}}]',
                f'["message",{{"topic_name":"{text}","content":"x"}}]',
                f'["message",{{"room_id":"{text}","content":"x"}}]',
                f'["message",{{"username":"{text}","content":"x"}}]',
                f'["create",{{"topic_name":"{text}"}}]',
                f'["delivered",{{"cursors":{{"{text}":1}}}}]',
                f'["get_profile",{{"username":"{text}"}}]',
                f'["get_rooms",{{"{text}":1}}]',
                f'["get_rooms",{{"after":"{text}"}}]',
                f'["connect_to_room",{{"roomName":"{text}"}}]',
            ):
                answer = await raw.ask_text(event)
                assert answer["ok"] is False, (case, event)
                assert answer["error"]["code"] == "invalid", (case, event, answer)
            answer = await raw.ask_text(f'["authenticate",{{"token":"{text}"}}]')
            assert answer["error"]["code"] in ("invalid", "unauthenticated"), case
            assert (await raw.ask_text(f'["{text}",{{}}]'))["error"]["code"] == "unknown_action", case
    for case, text in TEXTS.items():
        attempts = [(f'"token":"{text}"', "unauthenticated")]
        attempts += [
            (f'"token":"{token}",{auth}', "invalid") for auth in (f'"device":"{text}"', f'"cursors":{{"{text}":1}}')
        ]
        for auth, code in attempts:
            async with opened(server.url) as raw:
                assert (await raw.connect_refused(f"{{{auth}}}"))["code"] == code, (case, auth)
                await raw.enter(token)


async def test_content_of_every_script_and_plane_is_returned_unchanged(server: RunningNode) -> None:
    text = 'ñ العربية 漢字 👩\u200d👩\u200d👧 𝕏 \u2028\u2029\ufeff\u200b \x01\x1e\x7f \\ " \U0001f600'
    async with entered(server.url, await server.register("omar")) as raw:
        await raw.ask("create", {"topic_name": "noticias"})
        answer = await raw.ask("message", {"topic_name": "noticias", "content": text})
        assert answer["data"]["content"] == text
        page = await raw.ask("history", {"topic_name": "noticias"})
        assert [m["content"] for m in page["data"]["messages"]] == [text]
    async with polling(server.url) as session:  # over polling U+001E separates packets
        token = await server.login("omar")
        await session.post("40" + dumps({"token": token, "device": "new", "cursors": {}}))
        await session.until('42["ready",')
        await session.post("421" + dumps(["history", {"topic_name": "noticias"}]))
        (answer,) = json.loads((await session.until("431[")).removeprefix("431"))
        assert [m["content"] for m in answer["data"]["messages"]] == [text]


async def test_a_protocol_error_on_polling_sends_closing_and_ends_the_session(gateway: RunningNode) -> None:
    async with polling(gateway.url, await gateway.register("omar")) as session:
        await session.post("42[]")
        packets = await session.poll()
        assert closing_of(list(packets)) == {"reason": "protocol_error", "reconnect": False}
        assert list(await session.poll()) == ["41"]
        assert list(await session.poll()) == ["1"]
        assert (await session.http.get(session.address)).status_code == 400


_text = st.text('a漢\x00"\\\ud800\udc00', max_size=4) | st.text(max_size=8)  # lone surrogates as well
_floats = st.floats(allow_nan=False, allow_infinity=False)  # JSON has neither
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _floats | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_names = st.sampled_from(["message", "create", "history", "connect", "disconnect", "delivered", "get_rooms"])
_field = st.sampled_from(["topic_name", "room_id", "username", "content", "limit", "cursors", "_placeholder", "num"])
_events = st.tuples(_names | _text | _json, _json | st.dictionaries(_field, _json, max_size=4)).map(
    lambda e: dumps(list(e))
)
_frames = st.one_of(
    st.builds("42{}{}".format, st.integers(0, 99), _events),
    st.builds("42{}{}".format, st.integers(0, 99), _text.map(lambda name: dumps([name, {}]))),
    st.builds("42{}".format, _events),
    st.builds("4{}{}".format, st.sampled_from("0123456789"), st.text(max_size=20)),
    st.builds("45{}-{}{}".format, st.integers(0, 3), st.integers(0, 9) | st.just(""), _events),
    st.builds("4{}{}".format, st.sampled_from("23456"), _json.map(dumps)),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from([value for value in BROKEN.values() if len(value) < 100]),
    st.binary(max_size=20),
)


def _encodable(frame: str | bytes) -> str | bytes:
    return frame if isinstance(frame, bytes) else frame.encode("utf-8", "replace").decode()


@pytest.fixture
async def omars(gateway: RunningNode) -> AsyncIterator[tuple[str, str, Raw]]:
    """The node's address, omar's token, and a connection of his that must stay undisturbed."""
    token = await gateway.register("omar")
    async with entered(gateway.url, token) as bystander:
        yield gateway.url, token, bystander


_fuzz = settings(
    max_examples=examples(40),
    deadline=None,
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # no shrinking: it is slow over a network, and the examples are small
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@settings(_fuzz, max_examples=examples(150))
@given(event=_events | _text.map(lambda name: dumps([name, {}])))
async def test_every_well_formed_event_is_answered(omars: tuple[str, str, Raw], event: str) -> None:
    *_, connection = omars
    await connection.ask_text(event)


@_fuzz
@given(frames=st.lists(_frames.map(_encodable), min_size=1, max_size=6), connect=st.booleans(), post=st.booleans())
async def test_no_bytes_from_one_client_disturb_the_server(
    omars: tuple[str, str, Raw],
    caplog: pytest.LogCaptureFixture,
    frames: list[str | bytes],
    connect: bool,
    post: bool,
) -> None:
    url, token, bystander = omars
    if post:
        async with polling(url, token if connect else None) as session:
            packets = ["b" + base64.b64encode(f).decode() if isinstance(f, bytes) else f for f in frames]
            assert (await session.post(*packets)).status_code in (200, 400)
            await session.post("1")
    else:
        async with entered(url, token) if connect else opened(url) as raw:
            with contextlib.suppress(ConnectionClosed):
                await raw.send(*frames, "1")
            await raw.until_closed()
    await bystander.is_alive()
    assert [record.getMessage() for record in caplog.records if record.exc_info or record.levelname == "ERROR"] == []
