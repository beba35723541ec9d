"""The files of messages in words: their numbers, names, sizes and types. `render.visible` is still to clean it."""

from __future__ import annotations

from typing import Final

from rich.filesize import decimal

from tidings.contract.models import Attachment, Message
from tidings_chat.i18n import m, t
from tidings_client import Unsent

_KINDS: Final = {"image": m("image"), "audio": m("sound"), "video": m("video"), "text": m("text")}


def numbers(message: Message) -> list[str]:
    """The numbers by which commands know its files: `12.2` is the second one of message 12."""
    return [f"{message.seq}.{place}" for place in range(1, len(message.files) + 1)]


def described(message: Message) -> list[str]:
    """A line for each of its files."""
    return [f"{number} {_words(file)}" for number, file in zip(numbers(message), message.files, strict=True)]


def _words(file: Attachment) -> str:
    kind, _, subtype = file.type.partition("/")
    named = t(_KINDS[kind]) if kind in _KINDS else t("file") if subtype in ("", "octet-stream") else subtype
    return "  ".join(filter(None, (file.name, decimal(file.size), named, file.alt and f'"{file.alt}"')))


def summary(message: Message | Unsent) -> str:
    """The text of a message and the names of its files, for one line."""
    names = ", ".join(file.name for file in message.files)
    return f"{message.content} [{names}]".lstrip() if names else message.content
