"""What the rules of the law share: who does something to which room, and the comparison with the model."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.law.model import Refusal
from tests.law.state import State
from tests.law.world import Device, World
from tests.support.client import Refused
from tidings.node import Node

T = TypeVar("T")
P = ParamSpec("P")
USERS, DEVICES, TOPICS = ("Ana", "ben", "CLEO"), ("phone", "laptop"), ("plaza", "patio", "puente")
_example = itertools.count()

Reference = tuple[str, int]
index = st.integers(0, 5)
users = st.sampled_from([*USERS, "nobody"])
references = st.tuples(st.sampled_from(["mine", "mine", "mine", "topic_name", "username", "room_id"]), index)
which_message = st.integers(0, 9)
"""Counted from the newest."""


def step(
    devices: int = 1,
    **arguments: st.SearchStrategy[Any],
) -> Callable[[Callable[Concatenate[Any, P], Coroutine[Any, Any, None]]], Callable[Concatenate[Any, P], None]]:
    """A rule whose coroutine runs on the loop of the nodes, if so many devices are connected."""

    def decorate(
        work: Callable[Concatenate[Any, P], Coroutine[Any, Any, None]],
    ) -> Callable[Concatenate[Any, P], None]:
        @precondition(lambda self: len(self.world.connected) >= devices)
        @rule(**arguments)
        @wraps(work)
        def perform(self: Steps, *args: P.args, **kwargs: P.kwargs) -> None:
            self.run(work(self, *args, **kwargs))

        return perform

    return decorate


class Steps(RuleBasedStateMachine):
    """Users with two devices each, any of which may be connected."""

    http: httpx.AsyncClient
    urls: Sequence[str]
    """Of the nodes."""
    patience_s: float
    """How long what one node has answered may be unknown to others."""
    transports: Sequence[Sequence[str]] = (("websocket",),)
    """Those of the devices, in turn."""
    runner: asyncio.Runner
    nodes: Sequence[Node]

    def __init__(self) -> None:
        super().__init__()
        self.number = next(_example)
        self.contents = itertools.count(1)
        self.world = World(self.http, self.urls, self.patience_s, self.transports)
        self.model = self.world.model
        self.unchanged: dict[Device, State] | None = None
        """The states that the last step must not have changed; None: any may have."""
        self.everything = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @invariant()
    def a_state_is_what_the_server_answers(self) -> None:
        self.run(self.world.check(everything=self.everything, unchanged=self.unchanged))
        self.unchanged, self.everything = None, False

    def teardown(self) -> None:
        try:
            self.run(self.world.check(everything=True))
        finally:
            self.run(self.world.leave())

    async def ask(
        self, device: Device, action: str, payload: dict[str, Any], verdict: Callable[..., T], *arguments: Any
    ) -> tuple[T, dict[str, Any]] | None:
        """Perform an action, whose refusal must be the model's; returns the model's result and the data, or None.

        `verdict` is called with the arguments.
        """
        try:
            result, expected = verdict(*arguments), None
        except Refusal as refusal:
            result, expected = None, refusal.code
        before = self.states()
        answer, code = {}, None
        try:
            answer = await device.live.ask(action, payload)
        except Refused as refused:
            code = refused.code
        assert code == expected, f"{action} {payload} was answered with {code}, expected {expected}"
        if expected is not None:
            self.unchanged = before
            return None
        return result, answer  # type: ignore[return-value]

    # -- names and choices ---------------------------------------------------------------------------------------

    def name(self, name: str) -> str:
        """A name that is unique to this example: examples share a node."""
        return f"{name}{self.number}"

    def content(self, mention: str | None = None) -> str:
        return f"number {next(self.contents)}" + ("" if mention is None else f" @{self.name(mention)}")

    def device(self, actor_index: int) -> Device:
        connected = self.world.connected
        return connected[actor_index % len(connected)]

    def ref(self, device: Device, reference: Reference) -> dict[str, Any]:
        """A room reference: half of the time to a room of the device's user."""
        kind, number = reference
        known = [room for room in self.model.rooms if kind == "room_id" or device.username in room.members]
        match kind:
            case "topic_name":
                return {kind: self.name([*TOPICS, *USERS][number])}
            case "username":
                return {kind: self.name([*USERS, "nobody"][number % 4])}
            case "mine" if known:
                return {"room_id": known[number % len(known)].room_id}
            case _:
                return {"room_id": known[number].room_id if number < len(known) else "0" * 24}

    def topic_ref(self, device: Device, reference: Reference) -> dict[str, Any]:
        """A room reference for an action that also names a user."""
        payload = self.ref(device, reference)
        return {"topic_name": payload["username"]} if "username" in payload else payload

    def states(self) -> dict[Device, State]:
        return {device: device.state for device in self.world.connected}

    def shows(self, username: str, device: Device) -> bool:
        """Whether the device's user may see that a user is online."""
        return (username, device.username) not in self.model.blocks
