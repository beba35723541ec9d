"""The library's exceptions.

TidingsError
├── Refused        the server answered with an error; one subclass for each code of the contract (`contract.py`)
├── Offline        no connection, or it was lost before the answer: the action may or may not have taken effect
│   └── NotConnected   the action was not sent: it has not taken effect
├── Closed         the client was closed, by the program or by the server for good
├── ProtocolError  the server sent something that this version cannot read
├── InvalidEvent   the data of an application's event is not of the type that the program gave it
└── StoreFailed    the store could not be read or written: full, damaged, or not this user's
    ├── StoreInUse       another process has the store open
    └── StoreOfAnother   the store belongs to another user or device
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from tidings_client.events import ApplicationEvent


class TidingsError(Exception):
    """The base class; `str()` gives a sentence for people."""

    code: str = "client"
    retryable: bool = False
    """Whether the same call may succeed later without a change."""

    @property
    def details(self) -> dict[str, Any]:
        return {}

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait, if the server asked for that."""
        return None


class Refused(TidingsError):
    """An error answer or a refused connect. A code that this version does not know stays a plain `Refused`."""

    _by_code: ClassVar[dict[str, type[Refused]]] = {}

    def __init_subclass__(cls, code: str) -> None:
        cls.code = code
        Refused._by_code[code] = cls

    def __init__(self, code: str, message: str, details: dict[str, Any], retryable: bool) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.retryable = retryable
        self._details = details

    @classmethod
    def read(cls, raw: Any) -> Refused:
        """Read an error object of the wire, of any version."""
        error = raw if isinstance(raw, dict) else {"message": raw}
        code, details = str(error.get("code") or "internal"), error.get("details")
        return cls._by_code.get(code, Refused)(
            code,
            str(error.get("message") or "no reason given"),
            details if isinstance(details, dict) else {},
            error.get("retryable") is True,
        )

    @property
    def details(self) -> dict[str, Any]:
        return self._details

    @property
    def retry_after(self) -> float | None:
        after = self._details.get("retry_after")
        return float(after) if isinstance(after, int | float) and after >= 0 else None


class Offline(TidingsError):
    code = "offline"
    retryable = True


class NotConnected(Offline):
    """The action was not sent."""


class Closed(TidingsError):
    code = "closed"

    def __init__(self, message: str, reason: str | None = None) -> None:
        """`reason`: that of the server's `closing` event."""
        super().__init__(message)
        self.reason = reason


class ProtocolError(TidingsError):
    code = "protocol_error"


class InvalidEvent(TidingsError):
    """`details` names each field that is wrong, and why. The event stays the next one of its consumer."""

    code = "invalid_event"

    def __init__(self, name: str, problems: dict[str, str], event: ApplicationEvent | None = None) -> None:
        where = f"{name} (entry {event.seq})" if event is not None else name
        super().__init__(f"{where}: " + ", ".join(f"{field or 'data'}: {why}" for field, why in problems.items()))
        self.event = event
        """With its data as it was published; None for an event that was to be published."""
        self.skip: Callable[[], Awaitable[None]]
        """Go past this event: the consumer gets the next one."""
        self._problems = problems

    @property
    def details(self) -> dict[str, Any]:
        return dict(self._problems)


class StoreFailed(TidingsError):
    code = "store_failed"


class StoreInUse(StoreFailed):
    code = "store_in_use"


class StoreOfAnother(StoreFailed):
    code = "store_of_another"
