"""The registry of actions, and the one way to run them.

An action is a function; its registration is all that the gateways, the documents and the types are made from::

    @action("read", http="POST /api/read")
    async def read(ctx: Context, req: Read) -> Unread: ...

`Dispatcher.execute` looks the name up, validates the payload, runs the function and turns every failure into one
`Error`: whoever asked always gets an answer.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import pkgutil
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from server.contract.actions import MAX_CONTENT, Payload, RoomRef
from server.contract.errors import ActionError, Error, ErrorCode
from server.contract.models import View
from server.limits import Limit, Limits
from server.logs import Logs
from server.metrics import UNKNOWN, Metrics

logger = logging.getLogger("tidings.dispatch")
Handler = Callable[[Any, Any], Any]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True, slots=True)
class Action:
    """One action as registered."""

    name: str
    handler: Handler
    request: type[Payload]
    response: type[View]
    also: tuple[str, ...]
    """Other names that it answers to."""
    http: str | None
    """Its REST route, as "METHOD /path/{field}"; None: it is of a live connection only."""
    status: int
    """HTTP status of a REST answer that succeeded."""
    streams: bool
    """Its answer is any number of records, one after the other; over REST, as JSON lines."""
    appends: bool
    """It is done once it is in the journal's queue: the next action of the connection may start then."""
    live: bool
    """It can be asked over a live connection."""
    anonymous: bool
    """It needs no token."""
    limit: Limit | None
    """What it counts as; None: it is not limited here."""
    errors: Mapping[ErrorCode, str]
    """What it is refused for, beyond what follows from the shape of its payload."""

    @property
    def refusals(self) -> dict[ErrorCode, str]:
        """When it is refused, by code, in the order of the codes; without what holds for every action."""
        why: dict[ErrorCode, str] = {}
        if issubclass(self.request, RoomRef):
            why[ErrorCode.INVALID] = "the other user of the conversation is yourself"
            why[ErrorCode.NOT_FOUND] = "no such room or user, or a private room that you are not in"
            why[ErrorCode.FORBIDDEN] = "not a member of the public topic"
        if "content" in self.request.model_fields:
            why[ErrorCode.TOO_LARGE] = f"`content` has more than {MAX_CONTENT:,} characters"
        own = dict(self.errors)
        if ErrorCode.INVALID in why and ErrorCode.INVALID in own:
            own[ErrorCode.INVALID] = f"{why[ErrorCode.INVALID]}; {own[ErrorCode.INVALID]}"
        why |= own
        return {code: why[code] for code in ErrorCode if code in why}

    @property
    def noun(self) -> str:
        """What it is about: the module that it stands in."""
        return self.handler.__module__.rpartition(".")[2]

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.handler) or "").partition("\n")[0]

    @property
    def description(self) -> str:
        return inspect.getdoc(self.handler) or ""


def action(
    name: str,
    *,
    also: tuple[str, ...] = (),
    http: str | None = None,
    status: int = 200,
    live: bool = True,
    anonymous: bool = False,
    limit: Limit | None = None,
    response: type[View] | None = None,
    errors: Mapping[ErrorCode, str] | None = None,
) -> Callable[[H], H]:
    """Register a function as an action. Its annotations name the payload's model and the answer's.

    `response`: the answer's model, for a function that returns the wire's dictionary itself (the path of a message).
    `errors`: when it is refused, by code, beyond what follows from its payload (`Action.refusals`); it goes into the
    documents.
    A function that appends is annotated as returning a future of its answer: it has taken effect, in order, when it
    returns, and is answered after the commit.
    A function that streams is an async generator of its records; such an action is not asked over a live connection.
    """

    def register(handler: H) -> H:
        hints = get_type_hints(handler)
        _context, request = list(inspect.signature(handler).parameters)
        returns = hints["return"]
        appends = get_origin(returns) is asyncio.Future
        streams = get_origin(returns) is AsyncIterator
        handler.__action__ = Action(  # type: ignore[attr-defined]
            name=name,
            handler=handler,
            request=hints[request],
            response=response or (get_args(returns)[0] if appends or streams else returns),
            also=also,
            http=http,
            status=status,
            streams=streams,
            appends=appends,
            live=live,
            anonymous=anonymous,
            errors=errors or {},
            limit=limit,
        )
        return handler

    return register


class Registry:
    """Every action of a package, by each name it answers to."""

    def __init__(self, package: ModuleType) -> None:
        self._by_name: dict[str, Action] = {}
        self.actions: list[Action] = []
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            for value in vars(importlib.import_module(module.name)).values():
                found = getattr(value, "__action__", None)
                if isinstance(found, Action) and found not in self.actions:
                    self.add(found)

    def add(self, found: Action) -> None:
        """Register one action more. Raises `ValueError` if a name of it is taken."""
        self.actions.append(found)
        for name in (found.name, *found.also):
            if name in self._by_name:
                raise ValueError(f"two actions are named {name!r}")
            self._by_name[name] = found

    def get(self, name: str) -> Action | None:
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an action answered: `data` or `error`."""

    data: Any = None
    error: Error | None = None

    def result(self) -> Any:
        """The data. Raises `ActionError` if it is an error."""
        if self.error is not None:
            raise ActionError(self.error.code, self.error.message, **self.error.details)
        return self.data

    def wire(self) -> dict[str, Any]:
        """The one argument of the acknowledgement."""
        if self.error is not None:
            return {"ok": False, "error": self.error.model_dump(mode="json")}
        return {"ok": True, "data": self.data}


class Pending:
    """An answer that is still to come. Whoever waits is called within the step in which it comes."""

    __slots__ = ("_answer", "_waiting")

    def __init__(self) -> None:
        self._answer: Answer | None = None
        self._waiting: Callable[[Answer], None] | None = None

    def then(self, callback: Callable[[Answer], None]) -> None:
        """Call back with the answer; at once if it is there. For one caller."""
        if self._answer is not None:
            callback(self._answer)
        else:
            self._waiting = callback

    def come(self, answer: Answer) -> None:
        self._answer = answer
        if self._waiting is not None:
            self._waiting(answer)


class Dispatcher:
    def __init__(
        self,
        registry: Registry,
        unavailable: tuple[type[Exception], ...],
        metrics: Metrics,
        logs: Logs,
        limits: Limits | None = None,
    ) -> None:
        """`unavailable`: exceptions which mean that the store or a peer cannot be reached now."""
        self.registry = registry
        self._metrics = metrics
        self._logs = logs
        self._unavailable = unavailable
        self._limits = limits
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    async def drain(self) -> None:
        """Refuse new actions and wait for those that run."""
        self._closing = True
        await self._idle.wait()

    async def execute(
        self, name: object, raw: object, context: Any, *, strict: bool = True, gateway: str = "live"
    ) -> Answer:
        """Run an action and wait for its answer. Never raises, except for cancellation."""
        answer = await self.begin(name, raw, context, strict=strict, gateway=gateway)
        if isinstance(answer, Answer):
            return answer
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer.then(lambda came: None if future.done() else future.set_result(came))
        return await future

    async def begin(
        self, name: object, raw: object, context: Any, *, strict: bool = True, gateway: str = "live"
    ) -> Answer | Pending:
        """Run an action until it has taken effect; an append's answer may still be to come, after its commit.

        `context` is handed to the action's function. `strict`: no conversion between JSON types (query strings,
        which have but one type, are read with False).
        """
        started = time.perf_counter()
        found = self.registry.get(name) if isinstance(name, str) else None
        if found is None or (gateway == "live" and not found.live):
            answer = Answer(error=_error(ErrorCode.UNKNOWN_ACTION, "no such action", action=_printable(name)))
            return self._answered(answer, None, None, context, started)
        if self._closing:
            answer = Answer(error=_error(ErrorCode.UNAVAILABLE, "the server is shutting down"))
            return self._answered(answer, found, None, context, started)
        self._running += 1
        self._idle.clear()
        pending = False
        request: Payload | None = None
        try:
            if self._limits is not None and found.limit is not None:
                connection = context.connection
                self._limits.take(
                    found.limit, context.principal.user_key, None if connection is None else connection.id
                )
            request = found.request.model_validate({} if raw is None else raw, strict=strict)
            if found.streams:
                records = found.handler(context, request)
                first = await anext(records)  # what it is refused for is an answer of its own
                answer = Answer(data=self._stream(first, records, found.name))
                return self._answered(answer, found, request, context, started)
            result = await found.handler(context, request)
            if isinstance(result, asyncio.Future):
                pending = True
                return self._follow(result, found, request, context, started)
            answer = Answer(data=_plain(result))
        except Exception as error:
            answer = Answer(error=self.describe(error, found.name, context.request_id))
        finally:
            if not pending:
                self._done()
        return self._answered(answer, found, request, context, started)

    async def _stream(self, first: object, records: AsyncIterator[object], name: str) -> AsyncIterator[object]:
        """All records of a stream. What goes wrong after the first is a record of its own, and the last."""
        yield _plain(first)
        try:
            async for record in records:
                if self._closing:
                    raise ActionError(ErrorCode.UNAVAILABLE, "the server is shutting down")
                yield _plain(record)
        except Exception as error:
            yield {"type": "error", **self.describe(error, name).model_dump(mode="json")}

    def _follow(
        self, result: asyncio.Future[Any], found: Action, request: Payload, context: Any, started: float
    ) -> Pending:
        pending = Pending()

        def finish(done: asyncio.Future[Any]) -> None:
            self._done()
            if done.cancelled():
                answer = Answer(error=_error(ErrorCode.UNAVAILABLE, "the server is shutting down"))
            elif (error := done.exception()) is not None:
                answer = Answer(error=self.describe(error, found.name, context.request_id))
            else:
                answer = Answer(data=_plain(done.result()))
            pending.come(self._answered(answer, found, request, context, started))

        result.add_done_callback(finish)
        return pending

    def _answered(
        self, answer: Answer, found: Action | None, request: Payload | None, context: Any, started: float
    ) -> Answer:
        """Tell of an action that was answered; None: of one that there is not, of a payload that is none."""
        name = UNKNOWN if found is None else found.name
        code = None if answer.error is None else answer.error.code
        spent = time.perf_counter() - started
        self._metrics.acted(name, code, spent)
        if self._logs.on:
            context.room = _room(answer, request)
            if context.connection is not None:
                self._tell(name, answer, context, spent)
        return answer

    def _tell(self, name: str, answer: Answer, context: Any, spent: float) -> None:
        """One line for an action over a live connection."""
        connection, error = context.connection, answer.error
        self._logs.info(
            "action",
            request_id=(error and error.details.get("request_id")) or self._logs.request_id(),
            user=connection.principal.username,
            connection=connection.id,
            gateway=connection.link.gateway,
            action=name,
            room=context.room,
            outcome="ok" if error is None else error.code,
            duration_ms=round(spent * 1000, 3),
        )

    def _done(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    def describe(self, error: BaseException, name: str, request_id: str = "") -> Error:
        """Turn any failure into the one kind of error that clients get. `request_id`: if there is one already."""
        if isinstance(error, ActionError):
            return error.error
        if isinstance(error, ValidationError):
            return _invalid(error)
        if isinstance(error, self._unavailable):
            logger.warning("%s: unavailable: %s", name, error)
            return _error(ErrorCode.UNAVAILABLE, "the store cannot be reached now")
        request_id = request_id or secrets.token_hex(8)
        logger.error("%s failed, request_id=%s", name, request_id, exc_info=error, extra={"request_id": request_id})
        return _error(ErrorCode.INTERNAL, "a fault of the server", request_id=request_id)


def _error(code: ErrorCode, message: str, **details: Any) -> Error:
    return Error(code=code, message=message, details=details, retryable=code.retryable)


def _invalid(error: ValidationError) -> Error:
    """`details.fields` names each field and why; a text over its limit is `too_large`."""
    fields: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"] if part != "function-after") or "payload"
        fields.setdefault(where, problem["msg"].removeprefix("Value error, "))
        if problem["type"] == "string_too_long" and problem["loc"] == ("content",):
            limit = problem["ctx"]["max_length"]
            return _error(ErrorCode.TOO_LARGE, f"content has more than {limit} characters", limit=limit)
    summary = "; ".join(f"{where}: {why}" for where, why in fields.items())
    return _error(ErrorCode.INVALID, summary, fields=fields)


_EXISTS = (ErrorCode.FORBIDDEN, ErrorCode.CONFLICT)
"""Answers which say that what was named is there: so its name is not just anything that a client wrote."""


def _room(answer: Answer, request: Payload | None) -> str | None:
    """The room that an action was about, for the log: its id, or else its name; None if there is no such room."""
    if answer.error is None:
        data = answer.data
        if isinstance(data, dict) and (room_id := data.get("room_id")):
            return str(room_id)
    elif answer.error.code not in _EXISTS:
        return None
    return getattr(request, "room_id", None) or getattr(request, "topic_name", None)


def _plain(result: object) -> object:
    return result.model_dump(mode="json") if isinstance(result, BaseModel) else result


def _printable(name: object) -> str:
    """What can be told of a name: JSON can hold a lone surrogate, an answer cannot."""
    shown = (name if isinstance(name, str) else type(name).__name__)[:64]
    return shown.encode("utf-8", "replace").decode()


def payload_of(args: list[Any] | tuple[Any, ...]) -> object:
    """The payload among an event's arguments: none, or one object. Raises `invalid` for anything else."""
    if len(args) > 1:
        raise ActionError(
            ErrorCode.INVALID, "an action takes one argument, an object", fields={"payload": "one object"}
        )
    raw = args[0] if args else None
    if raw is not None and not isinstance(raw, Mapping):
        raise ActionError(ErrorCode.INVALID, "the payload is not an object", fields={"payload": "not an object"})
    return raw
