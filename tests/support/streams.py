"""What a reader of messages that stream has on the screen, by the contract's one rule."""

from __future__ import annotations

from tests.support.client import LiveClient


def texts(client: LiveClient) -> dict[str, str]:
    """Message id -> its content, as a client has it that cuts to the offset of each piece and adds the piece.

    Asserts that no piece begins beyond the text before it, and that none comes after the end.
    """
    contents: dict[str, str] = {}
    finished: set[str] = set()
    for event, payload in client.events:
        if event == "message_append":
            message_id = payload["message_id"]
            assert message_id not in finished, f"a piece after the end: {payload}"
            if message_id in contents:
                assert payload["offset"] <= len(contents[message_id]), f"a gap before {payload}"
                contents[message_id] = contents[message_id][: payload["offset"]] + payload["text"]
        elif event == "message" or isinstance(payload.get("message"), dict):
            message = payload if event == "message" else payload["message"]
            contents[message["id"]] = message["content"]
            if message["state"] != "streaming":
                finished.add(message["id"])
    return contents
