"""The table of commands, and the interface that a command uses.

A command of `actions` runs in the chat and as a script: `/kick diego`, and `tidings-chat … kick noticias diego`. They
differ in the context: the live connection and the open room, or REST and the room on the command line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rich.console import RenderableType

from tidings.contract.models import Message, Room, View
from tidings_chat.account import Account
from tidings_chat.errors import InvalidCommand
from tidings_chat.i18n import t


class CommandContext(Protocol):
    """The interface that commands use."""

    account: Account
    device: str

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Request an action; return the `data` of its answer. Raises `Refused` or `Offline`."""

    async def ask_in_room(self, action: str, **payload: Any) -> dict[str, Any]:
        """`ask`, with the current room in the payload. Raises `InvalidCommand` if there is none."""

    async def message(self, reference: str, *, own: bool = False) -> Message:
        """Find a message of the current room by its number, the seq; `.` is the last one, or the user's own last one.

        Raises `InvalidCommand` if there is no such message.
        """

    async def download(self, file_id: str, target: Path) -> Path:
        """Get a file; return its path. Raises like `Client.download`."""

    def show(self, *renderables: RenderableType, views: Iterable[View] = ()) -> None:
        """Print `renderables`; or, for a script with `--json`, the views."""

    async def read_secret(self, prompt: str) -> str:
        """Read a line without showing it. Raises `InvalidCommand` if there is no terminal."""

    async def entered(self, room: Room) -> None:
        """The user has just become a member of a room."""

    def title_of(self, room_id: str) -> str:
        """The title of one of the user's rooms."""


C_contra = TypeVar("C_contra", contravariant=True)


class Commands(Protocol[C_contra]):
    """The commands that a line with a slash runs."""

    @property
    def names(self) -> Sequence[str]: ...

    async def run(self, context: C_contra, line: str) -> None:
        """Run a line that starts with a slash. Raises `TidingsError`."""


def is_command(line: str) -> bool:
    """A message that starts with a slash is typed with two."""
    return line.startswith("/") and not line.startswith("//")


@dataclass(frozen=True)
class Command(Generic[C_contra]):
    name: str
    arguments: str
    summary: str
    group: str
    run: Callable[[C_contra, str], Awaitable[None]]
    needs_room: bool


class CommandTable(Generic[C_contra]):
    """Commands by name, in the order of their registration."""

    def __init__(self) -> None:
        self.commands: dict[str, Command[C_contra]] = {}

    def command(
        self, name: str, arguments: str, summary: str, *, group: str, needs_room: bool = False
    ) -> Callable[[Callable[[C_contra, str], Awaitable[None]]], Callable[[C_contra, str], Awaitable[None]]]:
        def register(run: Callable[[C_contra, str], Awaitable[None]]) -> Callable[[C_contra, str], Awaitable[None]]:
            self.commands[name] = Command(name, arguments, summary, group, run, needs_room)
            return run

        return register


async def run(command: Command[C_contra], context: C_contra, rest: str) -> None:
    """Run a command. Raises `InvalidCommand` if a required argument is missing, and what the command raises."""
    if command.arguments and not command.arguments.startswith("[") and not rest.strip():
        raise InvalidCommand(f"/{command.name} {t(command.arguments)}: {t(command.summary)}")
    await command.run(context, rest.strip())
