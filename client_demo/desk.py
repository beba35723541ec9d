"""What a command has at hand, and the table of commands.

The same command runs in the chat and as a script: `/kick diego`, and `python -m client_demo … kick noticias diego`.
What differs is the desk: over the live connection, in the room that is open; or over REST, in the room that is named.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from rich.console import RenderableType

from client_demo.account import Account
from client_demo.errors import ClientError
from server.contract.models import Message, Room, View


class Mistake(ClientError):
    """What was typed cannot be done."""


class Desk(Protocol):
    account: Account
    device: str

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The `data` of the answer. Raises `Refused`, `Offline`."""

    async def about(self, action: str, **payload: Any) -> dict[str, Any]:
        """Ask about the room at hand. Raises `Mistake` if there is none."""

    async def message(self, which: str, *, mine: bool = False) -> Message:
        """The message of the room at hand with that number (its seq); for `.`, the last one, or the user's own
        last one. Raises `Mistake` if there is none."""

    def show(self, *looks: RenderableType, views: Iterable[View] = ()) -> None:
        """Show something: as it looks, or, to a script that wants JSON, the views."""

    async def secret(self, prompt: str) -> str:
        """Something typed that is not shown. Raises `Mistake` if nobody is there to type."""

    def enter(self, room: Room) -> None:
        """A room that the user has just come into."""

    def title_of(self, room_id: str) -> str:
        """What people call a room of theirs."""


D_contra = TypeVar("D_contra", contravariant=True)


@dataclass(frozen=True)
class Command(Generic[D_contra]):
    name: str
    arguments: str
    summary: str
    group: str
    do: Callable[[D_contra, str], Awaitable[None]]
    room: bool
    """About the room at hand."""


class Table(Generic[D_contra]):
    """Commands by name, in the order in which they were added."""

    def __init__(self) -> None:
        self.commands: dict[str, Command[D_contra]] = {}

    def add(
        self, name: str, arguments: str, summary: str, *, group: str, room: bool = False
    ) -> Callable[[Callable[[D_contra, str], Awaitable[None]]], Callable[[D_contra, str], Awaitable[None]]]:
        def add(do: Callable[[D_contra, str], Awaitable[None]]) -> Callable[[D_contra, str], Awaitable[None]]:
            self.commands[name] = Command(name, arguments, summary, group, do, room)
            return do

        return add


async def run(command: Command[D_contra], desk: D_contra, rest: str) -> None:
    """Raises `Mistake` if arguments are missing; else what the command raises."""
    if command.arguments and not command.arguments.startswith("[") and not rest.strip():
        raise Mistake(f"/{command.name} {command.arguments}: {command.summary}")
    await command.do(desk, rest.strip())


def person(name: str) -> str:
    """A username as people type it."""
    return name.strip().removeprefix("@")


async def pointed(
    which: str, *, last: Callable[[], Awaitable[Message | None]], at: Callable[[int], Awaitable[Message | None]]
) -> Message:
    """What `Desk.message` gives, from the two ways to find a message."""
    if which == ".":
        found = await last()
    elif which.isascii() and which.isdigit() and 0 < len(which) < 16:
        found = await at(int(which))
    else:
        raise Mistake(f"{which} is no number of a message; . is the last one")
    if found is None:
        raise Mistake("there is no message yet" if which == "." else f"there is no message {which} here")
    return found


def number_and_text(rest: str, usage: str) -> tuple[str, str]:
    which, _, text = rest.partition(" ")
    if not text.strip():
        raise Mistake(usage)
    return which, text.strip()


def words(rest: str, usage: str, least: int, most: int) -> list[str]:
    found = rest.split()
    if not least <= len(found) <= most:
        raise Mistake(usage)
    return found


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(text: str) -> int:
    """`90`, `90s`, `10m`, `2h`, `7d`, `2w`."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise Mistake(f"{text} is no time: 90s, 10m, 2h, 7d")
    return int(number) * _UNITS[unit]


def span(length: int) -> str:
    """Seconds as people say them."""
    for unit in ("w", "d", "h", "m"):
        if length >= _UNITS[unit] and length % _UNITS[unit] == 0:
            return f"{length // _UNITS[unit]} {unit}"
    return f"{length} s"
