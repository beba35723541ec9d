"""The registry of actions, and the one way to run them.

An action is a function. The gateways, the documents and the types are all derived from its registration::

    @action("read", http="POST /api/read")
    async def read(ctx: Context, req: Read) -> Unread: ...

`Dispatcher.execute` looks up the name, validates the payload, checks the caller, runs the function and turns every
failure into one `Error`. Every action is answered.
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
from difflib import get_close_matches
from functools import partial
from types import ModuleType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from tidings.actions.context import Context
from tidings.auth.limits import Limit
from tidings.contract.actions import MAX_CONTENT, Payload, RoomRef
from tidings.contract.errors import ActionError, Error, ErrorCode
from tidings.contract.models import View
from tidings.contract.permissions import KeyScope
from tidings.contract.validation import explain, field_names, printable, validate
from tidings.fanout.connection import Connection
from tidings.monitoring.logs import Logs
from tidings.monitoring.metrics import UNKNOWN, Metrics
from tidings.monitoring.traces import Traces

logger = logging.getLogger("tidings.actions.dispatch")
Handler = Callable[[Context, Any], Any]
"""A context and the payload's model; returns the answer's model, a future of the answer, or a stream of records."""
H = TypeVar("H", bound=Handler)
LONGEST_TYPO = 32
"""Characters of an unknown name that is compared with those of the actions: that takes up to 0.15 ms."""


@dataclass(frozen=True, slots=True)
class Action:
    """One action as registered."""

    name: str
    handler: Handler
    request: type[Payload]
    response: type[View]
    aliases: tuple[str, ...]
    """Further names of the action."""
    http: str | None
    """Its REST route, as "METHOD /path/{field}"; None if it needs a live connection."""
    status: int
    """HTTP status of a successful REST answer."""
    streams: bool
    """Its answer is a stream of records: JSON lines over REST."""
    appends: bool
    """It takes effect when it enters the journal's queue; the connection's next action may start then."""
    live: bool
    """It is available over live connections."""
    anonymous: bool
    """It needs no token."""
    personal: bool
    """Anonymous, but its answer depends on the caller: a token that is sent must be valid."""
    admin: bool
    """Only administrators may call it."""
    scope: KeyScope | None
    """The scope with which a key may call it; None: no key may."""
    limit: Limit | None
    """The rate that it counts against; None if it has no rate, or counts in its function."""
    errors: Mapping[ErrorCode, str]
    """Why it is refused, by code, beyond what follows from its payload and from `admin`."""
    fields: frozenset[str]
    """The names that its payload's fields may have."""

    @property
    def refusals(self) -> dict[ErrorCode, str]:
        """Why it is refused, by code, in the order of the codes. Reasons that every action shares are left out."""
        reasons: dict[ErrorCode, str] = {}
        if issubclass(self.request, RoomRef):
            reasons[ErrorCode.INVALID] = "the other user of the conversation is yourself"
            reasons[ErrorCode.NOT_FOUND] = "no such room or user, or a private room that you are not in"
            reasons[ErrorCode.FORBIDDEN] = "not a member of the public topic"
        if "content" in self.request.model_fields:
            reasons[ErrorCode.TOO_LARGE] = f"`content` has more than {MAX_CONTENT:,} characters"
        if self.admin:
            reasons[ErrorCode.FORBIDDEN] = "you are not an administrator"
        own = dict(self.errors)
        if ErrorCode.INVALID in reasons and ErrorCode.INVALID in own:
            own[ErrorCode.INVALID] = f"{reasons[ErrorCode.INVALID]}; {own[ErrorCode.INVALID]}"
        reasons |= own
        return {code: reasons[code] for code in ErrorCode if code in reasons}

    @property
    def noun(self) -> str:
        """Its group in the documents: the name of its module."""
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
    aliases: tuple[str, ...] = (),
    http: str | None = None,
    status: int = 200,
    live: bool = True,
    anonymous: bool = False,
    personal: bool = False,
    admin: bool = False,
    scope: KeyScope | None = None,
    limit: Limit | None = None,
    response: type[View] | None = None,
    errors: Mapping[ErrorCode, str] | None = None,
) -> Callable[[H], H]:
    """Register a function as an action. Its annotations name the models of the payload and the answer.

    An appending function is annotated as returning a future of its answer: it has taken effect, in order, when it
    returns, and is answered after the commit. A streaming function is an async generator of records, for REST only.

    Args:
        admin: only administrators may call it, and keys with the `scope`; others get `forbidden`.
        scope: what a key needs to call it; None: keys may not.
        response: the answer's model, if the function returns the wire's dictionary, as the hot path of messages does.
        errors: why it is refused, by code, for the documents. What follows from the payload is added by
            `Action.refusals`.
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
            aliases=aliases,
            http=http,
            status=status,
            streams=streams,
            appends=appends,
            live=live,
            anonymous=anonymous,
            personal=personal,
            admin=admin,
            scope=scope,
            errors=errors or {},
            fields=field_names(hints[request]),
            limit=limit,
        )
        return handler

    return register


class Registry:
    """All actions of a package, by each of their names."""

    def __init__(self, package: ModuleType) -> None:
        self._by_name: dict[str, Action] = {}
        self.actions: list[Action] = []
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            for value in vars(importlib.import_module(module.name)).values():
                registration = getattr(value, "__action__", None)
                if isinstance(registration, Action) and registration not in self.actions:
                    self.add(registration)

    def add(self, registration: Action) -> None:
        """Add an action. Raises ValueError if another action has one of its names."""
        self.actions.append(registration)
        for name in (registration.name, *registration.aliases):
            if name in self._by_name:
                raise ValueError(f"two actions are named {name!r}")
            self._by_name[name] = registration

    def get(self, name: object) -> Action | None:
        """The action of a name, which may be of any type."""
        return self._by_name.get(name) if isinstance(name, str) else None

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an action: `data` or `error`."""

    data: Any = None
    error: Error | None = None

    def result(self) -> Any:
        """Return the data. Raises `ActionError` if the action failed."""
        if self.error is not None:
            raise ActionError(self.error.code, self.error.message, **self.error.details)
        return self.data

    def wire(self) -> dict[str, Any]:
        """Return the single argument of the acknowledgement."""
        if self.error is not None:
            return {"ok": False, "error": self.error.model_dump(mode="json")}
        return {"ok": True, "data": self.data}


class Dispatcher:
    def __init__(
        self,
        registry: Registry,
        unavailable: tuple[type[Exception], ...],
        metrics: Metrics,
        logs: Logs,
        traces: Traces | None = None,
    ) -> None:
        """`unavailable`: exceptions that mean the store or a peer cannot be reached. `traces`: None: they are off."""
        self.registry = registry
        self._metrics = metrics
        self._logs = logs
        self._traces = traces
        self._unavailable = unavailable
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    async def drain(self) -> None:
        """Refuse new actions and wait for the running ones."""
        self._closing = True
        await self._idle.wait()

    async def execute(
        self,
        name: object,
        raw: object,
        context: Context,
        *,
        strict: bool = True,
        gateway: str = "live",
        counted: bool = True,
    ) -> Answer:
        """Run an action and wait for its answer. Raises nothing but CancelledError."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(answer: Answer) -> None:
            if not answered.done():  # else its caller has gone
                answered.set_result(answer)

        action = self.registry.get(name)
        await self.begin(action, name, raw, context, done, strict=strict, gateway=gateway, counted=counted)
        return await answered

    async def begin(
        self,
        registered: Action | None,
        name: object,
        raw: object,
        context: Context,
        done: Callable[[Answer], None],
        *,
        strict: bool = True,
        gateway: str = "live",
        counted: bool = True,
    ) -> bool:
        """Run an action until it has taken effect. Returns whether its answer is pending: an append is under way.

        Args:
            registered: the action of that name, if there is one.
            name, raw: what the client sent, not yet validated.
            done: called once with the answer, before this returns or, of a pending one, after the commit.
            strict: refuse conversions between JSON types. False for query strings, whose values are all texts.
            gateway: "live" or "rest".
            counted: count the action against the caller's rate. False for the second and later actions behind one
                HTTP request.
        """
        started = time.perf_counter()
        request: Payload | None = None
        if registered is None or (gateway == "live" and not registered.live):
            answer = Answer(error=self._unknown(printable(name), gateway))
            done(self._record(answer, None, None, context, started))
            return False
        if self._closing:
            answer = Answer(error=_error(ErrorCode.UNAVAILABLE, "the server is shutting down"))
            done(self._record(answer, registered, None, context, started))
            return False
        self._running += 1
        self._idle.clear()
        pending = False
        try:
            if counted and registered.limit is not None:
                context.count(registered.limit)
            names = (registered.name, *registered.aliases)
            request = validate(registered.request, registered.fields, raw, strict=strict, action_names=names)
            caller = context.caller
            if caller is not None and (caller.scopes is not None or caller.key_name is not None):
                await context.check_key(registered.name, registered.scope, request)
            if registered.admin and (caller is None or caller.scopes is None):
                context.check_admin()
                if not (registered.http or "").startswith("GET "):
                    await context.audit(registered.name, request)
            if registered.streams:
                records = registered.handler(context, request)
                first = await anext(records)  # a refusal here is an ordinary answer, before any record is sent
                answer = Answer(data=self._stream(first, records, registered.name))
            else:
                result = await registered.handler(context, request)
                if isinstance(result, asyncio.Future):
                    result.add_done_callback(partial(self._appended, registered, request, context, started, done))
                    pending = True
                    return True
                answer = Answer(data=_plain(result))
        except Exception as error:
            answer = Answer(error=self.describe(error, registered.name, context.request_id))
        finally:
            if not pending:
                self._finish()
        done(self._record(answer, registered, request, context, started))
        return False

    def _unknown(self, name: str, gateway: str) -> Error:
        """The error for an action that does not exist, or not over this gateway."""
        names = [action.name for action in self.registry if gateway != "live" or action.live]
        close = get_close_matches(name, names, 1, 0.7) if len(name) <= LONGEST_TYPO else []
        hint = f": did you mean `{close[0]}`?" if close else ""
        return _error(ErrorCode.UNKNOWN_ACTION, f"no such action{hint}", action=name)

    def _appended(
        self,
        registered: Action,
        request: Payload,
        context: Context,
        started: float,
        done: Callable[[Answer], None],
        result: asyncio.Future[Any],
    ) -> None:
        """An append is committed, or has failed: answer it."""
        self._finish()
        if result.cancelled():
            answer = Answer(error=_error(ErrorCode.UNAVAILABLE, "the server is shutting down"))
        elif (error := result.exception()) is not None:
            answer = Answer(error=self.describe(error, registered.name, context.request_id))
        else:
            answer = Answer(data=_plain(result.result()))
        done(self._record(answer, registered, request, context, started))

    async def _stream(self, first: object, records: AsyncIterator[object], name: str) -> AsyncIterator[object]:
        """Yield all records of a stream. A failure after the first record becomes the last record."""
        yield _plain(first)
        try:
            async for record in records:
                if self._closing:
                    raise ActionError(ErrorCode.UNAVAILABLE, "the server is shutting down")
                yield _plain(record)
        except Exception as error:
            yield {"type": "error", **self.describe(error, name).model_dump(mode="json")}

    def _record(
        self, answer: Answer, registered: Action | None, request: Payload | None, context: Context, started: float
    ) -> Answer:
        """Record metrics and a log line.

        `registered` is None for an unknown action, `request` is None if validation failed.
        """
        name = UNKNOWN if registered is None else registered.name
        code = None if answer.error is None else answer.error.code
        duration = time.perf_counter() - started
        self._metrics.action_answered(name, code, duration)
        if self._traces is not None:
            self._traces.action(name, code, duration, answer.data, context.traceparent)
        if self._logs.on:
            context.room = _room(answer, request)
            if context.connection is not None:
                self._log(name, answer, context, context.connection, duration)
        return answer

    def _log(self, name: str, answer: Answer, context: Context, connection: Connection, duration: float) -> None:
        """Log an action of a live connection. Those over HTTP are in the line of their request."""
        error = answer.error
        self._logs.info(
            "action",
            request_id=(error and error.details.get("request_id")) or self._logs.request_id(),
            user=connection.principal.username,
            connection=connection.id,
            gateway=connection.link.gateway,
            action=name,
            room=context.room,
            outcome="ok" if error is None else error.code,
            duration_ms=round(duration * 1000, 3),
        )

    def _finish(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    def describe(self, error: BaseException, name: str, request_id: str = "") -> Error:
        """Turn any exception into an `Error`. `request_id`: of the HTTP request, if there is one."""
        if isinstance(error, ActionError):
            return error.error
        if isinstance(error, ValidationError):
            return explain(error)
        if isinstance(error, self._unavailable):
            logger.warning("%s: unavailable: %s", name, error)
            reason = getattr(error, "reason", "")
            return _error(ErrorCode.UNAVAILABLE, f"the store cannot be reached now{reason and ': '}{reason}")
        request_id = request_id or secrets.token_hex(8)
        logger.error("%s failed, request_id=%s", name, request_id, exc_info=error, extra={"request_id": request_id})
        return _error(ErrorCode.INTERNAL, "a fault of the server", request_id=request_id)


def _error(code: ErrorCode, message: str, **details: Any) -> Error:
    return Error(code=code, message=message, details=details, retryable=code.retryable)


_ROOM_EXISTS = (ErrorCode.FORBIDDEN, ErrorCode.CONFLICT)
"""Errors that imply that the room exists: its name is then safe to log, and not an arbitrary text of a client."""


def _room(answer: Answer, request: Payload | None) -> str | None:
    """Return the id or else the name of the action's room for the log; None if the room may not exist."""
    if answer.error is None:
        data = answer.data
        if isinstance(data, dict) and (room_id := data.get("room_id")):
            return str(room_id)
    elif answer.error.code not in _ROOM_EXISTS:
        return None
    return getattr(request, "room_id", None) or getattr(request, "topic_name", None)


def _plain(result: object) -> object:
    return result.model_dump(mode="json") if isinstance(result, BaseModel) else result


def payload_of(args: list[Any] | tuple[Any, ...]) -> object:
    """Return the payload from an event's arguments, which are empty or one object. Raises `invalid` otherwise."""
    if len(args) > 1:
        raise ActionError(
            ErrorCode.INVALID, "an action takes one argument, an object", fields={"payload": "one object"}
        )
    raw = args[0] if args else None
    if raw is not None and type(raw) is not dict and not isinstance(raw, Mapping):  # the last is slow
        raise ActionError(ErrorCode.INVALID, "the payload is not an object", fields={"payload": "not an object"})
    return raw
