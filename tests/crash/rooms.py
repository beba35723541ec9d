"""The users of the load, their devices and rooms."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from tests.crash.links import Device, Link

SENDERS = [f"sender{n}" for n in range(8)]
READERS = [f"reader{n}" for n in range(4)]
GUESTS = [f"guest{n}" for n in range(3)]
"""Users who join and leave some private topics, by themselves or through the owners."""
STRANGER = "stranger"
PUBLIC, PRIVATE, OPEN_TO_GUESTS, GROUPS = 6, 6, 4, 2
DIRECT = [
    ("sender0", "sender1"),
    ("sender2", "sender3"),
    ("sender4", "sender5"),
    ("sender6", "sender7"),
    ("sender2", "reader0"),
    ("sender5", "reader2"),
]


def devices() -> list[Device]:
    """The devices of all users, those of the senders first."""
    upgraded = ["polling", "websocket"]
    found = [
        *(Device(user, "phone", exact=n % 2 == 0, reports=True) for n, user in enumerate(SENDERS)),
        Device("reader0", "phone", exact=True),
        Device("reader1", "phone", exact=True, transports=upgraded),
        Device("reader2", "phone", exact=False, reports=True, transports=upgraded),
        Device("reader3", "phone", exact=False),
        Device("sender0", "tablet", exact=True, transports=["polling"]),
        Device("sender1", "tablet", exact=False, reports=True),
        Device(STRANGER, "phone", exact=False),
        *(Device(guest, "phone", exact=False) for guest in GUESTS),
    ]
    found[3].transports = upgraded
    return found


class Rooms:
    """Topics and groups. The direct conversations are created under load."""

    def __init__(self) -> None:
        self.members: dict[str, list[str]] = {}
        """room_id -> members, its owner first"""
        self.open: list[str] = []
        """Topics with guests"""

    async def create(self, links: Mapping[str, Link], rng: Random) -> None:
        """`links`: a connection of each user."""
        for n in range(PUBLIC + PRIVATE + GROUPS):
            private = n >= PUBLIC
            members = [*rng.sample(SENDERS, rng.randint(2, 4)), *rng.sample(READERS, rng.randint(0, 2))]
            if n < len(SENDERS):  # every sender has a topic
                members = [SENDERS[n], *(user for user in members if user != SENDERS[n])]
            owner, name = links[members[0]], f"{'private' if private else 'public'} {n}"
            if n >= PUBLIC + PRIVATE:
                group = await owner.ask("create_conversation", usernames=members[1:], title=name)
                self.members[group["room_id"]] = members
                continue
            room: str = (await owner.ask("create", topic_name=name, is_private=private))["room_id"]
            self.members[room] = members
            if PUBLIC <= n < PUBLIC + OPEN_TO_GUESTS:
                self.open.append(room)
            for user in members[1:]:
                if private:
                    await owner.ask("invite", room_id=room, username=user)
                else:
                    await links[user].ask("subscribe", topic_name=name)

    def targets(self, user: str) -> list[tuple[str, dict[str, str]]]:
        """The rooms to which a user can send: the name in these modules, and the room reference."""
        topics = [(room, {"room_id": room}) for room, members in self.members.items() if user in members]
        direct = [("+".join(pair), {"username": pair[1 - pair.index(user)]}) for pair in DIRECT if user in pair]
        return topics + direct

    def with_guests(self, user: str) -> list[str]:
        """The rooms of an owner that have guests."""
        return [room for room in self.open if self.members[room][0] == user]
