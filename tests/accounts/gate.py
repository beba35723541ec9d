"""A gate before the checks of passwords."""

from __future__ import annotations

import asyncio
import threading

import bcrypt

import tidings.auth.passwords


def server_bcrypt() -> object:
    return tidings.auth.passwords.bcrypt


class Gate:
    """Blocks every password check until `open`."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.entered = threading.Event()
        self.checked: list[bytes] = []
        """The checked passwords, in order."""
        self._check = bcrypt.checkpw

    def open(self) -> None:
        self._open.set()

    def checkpw(self, password: bytes, hashed: bytes) -> bool:
        self.checked.append(password)
        self.entered.set()
        self._open.wait(120)
        return self._check(password, hashed)

    async def reached(self) -> None:
        """Wait until at least one check has begun."""
        assert await asyncio.to_thread(self.entered.wait, 30)
