"""The topics protocol: malformed frames are answered, and end nothing."""

from __future__ import annotations

import json

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.dialects.topics_client import (
    DISCONNECT,
    MESSAGE,
    talking,
)
from tests.support.depth import examples
from tests.support.node import RunningNode
from tidings.contract.actions import MAX_CONTENT
from tidings.contract.errors import ErrorCode

# -- malformed --------------------------------------------------------------------------------------------------

MALFORMED: dict[str, tuple[str | bytes, str | None, str]] = {
    "nothing": ("", None, "invalid"),
    "not JSON": ("hola", None, "invalid"),
    "half an object": ('{"action": "message"', None, "invalid"),
    "two objects": (DISCONNECT * 2, None, "invalid"),
    "not a number": ('{"action": NaN}', None, "invalid"),
    "deep nesting": ("[" * 100_000, None, "invalid"),
    "an integer without end": ('{"action": ' + "9" * 5000 + "}", None, "invalid"),
    "a list": ('["disconnect"]', None, "invalid"),
    "null": ("null", None, "invalid"),
    "a text": ('"disconnect"', None, "invalid"),
    "binary": (DISCONNECT.encode(), None, "invalid"),
    "binary that is nothing": (b"", None, "invalid"),
    "no action": ('{"topic_name": "noticias"}', None, "invalid"),
    "an action that is null": ('{"action": null}', None, "invalid"),
    "an action that is a list": ('{"action": ["message"]}', None, "invalid"),
    "an unknown action": ('{"action": "fly"}', "fly", "unknown_action"),
    "an action that is half a character": ('{"action": "\\ud800"}', "?", "unknown_action"),
    "an action of the contract that the document has not": ('{"action": "get_rooms"}', "get_rooms", "unknown_action"),
    "an event": ('{"action": "connect"}', "connect", "unknown_action"),
    "no topic": ('{"action": "message", "content": "x"}', "message", "invalid"),
    "a topic that is null": ('{"action": "message", "topic_name": null, "content": "x"}', "message", "invalid"),
    "a topic that is a number": ('{"action": "message", "topic_name": 7, "content": "x"}', "message", "invalid"),
    "a topic that is a list": ('{"action": "message", "topic_name": [], "content": "x"}', "message", "invalid"),
    "a topic that is an object": ('{"action": "invite", "topic_name": {}, "username": "x"}', "invite", "invalid"),
    "a topic that is half a character": (
        '{"action": "message", "topic_name": "\\ud800", "content": "x"}',
        "message",
        "invalid",
    ),
    "no content": ('{"action": "message", "topic_name": "noticias"}', "message", "invalid"),
    "empty content": ('{"action": "message", "topic_name": "noticias", "content": ""}', "message", "invalid"),
    "content that is a number": (
        '{"action": "message", "topic_name": "noticias", "content": 1}',
        "message",
        "invalid",
    ),
    "too much content": (
        json.dumps({"action": "message", "topic_name": "noticias", "content": "x" * (MAX_CONTENT + 1)}),
        "message",
        "too_large",
    ),
    "nobody to invite": ('{"action": "invite", "topic_name": "noticias"}', "invite", "invalid"),
    "private as a text": ('{"action": "create", "topic_name": "x", "is_private": "yes"}', "create", "invalid"),
    "private as null": ('{"action": "create", "topic_name": "x", "is_private": null}', "create", "invalid"),
    "a field of the contract": (
        '{"action": "message", "topic_name": "noticias", "content": "x", "client_id": "1"}',
        "message",
        "invalid",
    ),
    "another way to name a room": ('{"action": "message", "room_id": "x", "content": "x"}', "message", "invalid"),
    "a misspelt field": ('{"action": "suscribe", "topic": "noticias"}', "suscribe", "invalid"),
    "a field too many": ('{"action": "disconnect", "now": true}', "disconnect", "invalid"),
}


async def test_a_malformed_frame_is_answered_in_order_and_the_connection_stays(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    async with talking(gateway.url, tokens["omar"]) as omar:
        await omar.ask("create", topic_name="noticias")
        for fault, (frame, action, code) in MALFORMED.items():
            answer = await omar.say(frame)
            assert (answer["action"], answer["status"], answer["code"]) == (action, "error", code), (fault, answer)
        # Among valid frames, it is answered in order.
        for frame in (MESSAGE, "hola", MESSAGE):
            await omar.socket.send(frame)
        assert [(await omar.answer())["status"] for _ in range(3)] == ["ok", "error", "ok"]
        assert await omar.nothing_more() == ["Content of the message"] * 2


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_NAMES = st.sampled_from(["topic_name", "username", "content", "is_private", "room_id", "client_id"])
_FRAMES = (
    st.text(max_size=50)
    | st.binary(max_size=50)
    | _VALUES.map(json.dumps)
    | st.builds(
        lambda action, fields: json.dumps(fields | {"action": action}),
        st.sampled_from(["suscribe", "subscribe", "invite", "create", "message"]) | _VALUES,
        st.dictionaries(_NAMES, _VALUES | st.sampled_from(["noticias", "diego"]), max_size=4),
    )
)
_PHASES = (Phase.explicit, Phase.generate)
_KNOWN = {code.value for code in ErrorCode} - {"internal"}


async def test_every_frame_is_answered_once_and_never_with_an_internal_error(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    sent: list[str | bytes] = []

    @settings(max_examples=examples(300), phases=_PHASES, deadline=None, database=None, derandomize=True)
    @given(_FRAMES.filter(lambda frame: "disconnect" not in str(frame)))
    def collect(frame: str | bytes) -> None:
        sent.append(frame)

    collect()
    async with talking(gateway.url, tokens["omar"]) as omar:
        await omar.ask("create", topic_name="noticias")
        for frame in sent:
            answer = await omar.say(frame)
            assert answer.get("code", "ok") in _KNOWN | {"ok"}, (frame, answer)
        await omar.nothing_more()
