"""Keys of the chat: Tab completes a word, Alt+1 to Alt+9 open a room."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from tidings.contract.models import Role, Room
from tidings_chat.rooms import Rooms, title

KEYS: Final = 9
_EMOJIS: Final = ("👍", "❤️", "😂", "🎉", "👀", "🙏")
_LONGEST: Final = 20
"""Characters of a room's name in the status bar"""


def suggestions(
    line: str, commands: Collection[str], rooms: Iterable[Room], people: Collection[str], files: Collection[str] = ()
) -> list[str]:
    """Completions of the last word of the line, sorted."""
    word = line.rpartition(" ")[2].casefold()
    words = line.split(" ")
    names = [f"@{username}" for username in people]
    candidates: Iterable[str] = names
    if words[0] in ("/send", "/save") and (place := _path_in(line)) is not None:
        return _paths(place)
    if " " not in line:
        candidates = [f"/{name}" for name in commands] if line.startswith("/") else names
    elif words[0] == "/help":
        candidates = commands
    elif words[0] in ("/react", "/unreact"):
        candidates = _EMOJIS if len(words) == 3 else ()
    elif words[0] == "/save":
        return [number for number in files if number.startswith(word)]
    elif words[0] == "/role" and len(words) == 3:
        candidates = list(Role)
    elif line.startswith("/") and not word.startswith("@"):
        candidates = {room.topic_name or room.title or "" for room in rooms} | set(people)
    fitting = sorted(entry for entry in candidates if entry and entry.casefold().startswith(word))
    if line.startswith("/") and " " not in line:
        return _shortest_of_all(fitting, word)
    return fitting


def _path_in(line: str) -> str | None:
    """The path that is being typed in `/send FILE [TEXT]` or `/save N [PATH]`, with its opening quote, if any."""
    command, _, rest = line.partition(" ")
    if command == "/save":
        _, separator, rest = rest.partition(" ")
    else:
        separator = line[len(command) :]
    is_quoted = rest[:1] in ("'", '"') and rest.count(rest[0]) == 1
    return rest if separator and (is_quoted or " " not in rest) else None


def _paths(typed: str) -> list[str]:
    """The paths that begin as typed, in quotes if they have spaces: what replaces the last word of the line."""
    quote = typed[0] if typed[:1] in ("'", '"') else ""
    folder, slash, begin = typed[len(quote) :].rpartition("/")
    replaced = len(typed) - len(typed.rpartition(" ")[2])
    found = []
    with contextlib.suppress(OSError, RuntimeError):
        for entry in Path(f"{folder}{slash}" or ".").expanduser().iterdir():
            if entry.name.startswith(begin) and (begin or not entry.name.startswith(".")):
                path = f"{folder}{slash}{entry.name}"
                mark = quote or ('"' if " " in path else "")
                found.append(f"{mark}{path}{'/' if entry.is_dir() else mark}"[replaced:])
    return sorted(found)


def _shortest_of_all(commands: list[str], word: str) -> list[str]:
    """Complete `/jo` to `/join `, although `/join-link` exists: their common prefix would lack the space."""
    if commands and word != commands[0] and all(command.startswith(commands[0]) for command in commands):
        return commands[:1]
    return commands


class RoomKeys:
    """The rooms on Alt+1 to Alt+9, ordered by newest message. A room keeps its key while the user is in it."""

    def __init__(self) -> None:
        self._room_ids: list[str | None] = []

    def assign(self, rooms: Rooms) -> None:
        """Give free keys to rooms without one, the room with the newest message first."""
        self._room_ids = [room_id if room_id and rooms.get(room_id) else None for room_id in self._room_ids]
        waiting = [room for room in rooms if room.room_id not in self._room_ids]
        waiting.sort(key=lambda room: room.last_message.created_at if room.last_message else "", reverse=True)
        for room in waiting:
            if None in self._room_ids:
                self._room_ids[self._room_ids.index(None)] = room.room_id
            elif len(self._room_ids) < KEYS:
                self._room_ids.append(room.room_id)

    def room_id(self, key: int) -> str | None:
        """The room on Alt+`key`, if any."""
        return self._room_ids[key - 1] if key <= len(self._room_ids) else None

    def key(self, room_id: str) -> int | None:
        return self._room_ids.index(room_id) + 1 if room_id in self._room_ids else None

    def bar(self, rooms: Rooms, current: str | None) -> list[tuple[str, str]]:
        """The rooms with their keys and unread counts, as styles and texts."""
        parts: list[tuple[str, str]] = []
        for key, room_id in enumerate(self._room_ids, 1):
            room = rooms.get(room_id or "")
            if room is None:
                continue
            name = title(room)
            name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
            is_unread = room.unread > 0 and room.room_id != current
            style = "class:bar.current" if room.room_id == current else "class:bar.good" if is_unread else ""
            parts += [("class:bar.quiet", f"  {key} "), (style, f"{name} ({room.unread})" if is_unread else name)]
        return parts
