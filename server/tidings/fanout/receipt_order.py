"""Receipts that were published by several nodes may overtake each other: positions are never sent backwards."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

MAX_MEMBERS = 10_000
"""Members whose latest receipt is remembered, of all rooms. Receipts overtake each other within seconds."""


class ReceiptOrder:
    def __init__(self) -> None:
        self._latest: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        """(room_id, username) -> (delivered_seq, read_seq)"""

    def clear(self) -> None:
        """The log went back: its positions begin anew."""
        self._latest.clear()

    def newest(self, receipt: dict[str, Any]) -> dict[str, Any]:
        """The receipt, with the member's positions as far as any receipt has shown them."""
        member = receipt["room_id"], receipt["username"]
        positions = receipt["delivered_seq"], receipt["read_seq"]
        earlier = self._latest.pop(member, positions)
        delivered_seq, read_seq = latest = max(positions[0], earlier[0]), max(positions[1], earlier[1])
        self._latest[member] = latest
        if len(self._latest) > MAX_MEMBERS:
            self._latest.popitem(last=False)
        return receipt if latest == positions else {**receipt, "delivered_seq": delivered_seq, "read_seq": read_seq}
