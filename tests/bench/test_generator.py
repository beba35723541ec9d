"""The load generator counts exactly what arrived; an unexpected message ends the run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench.capacity import frame
from bench.generator.__main__ import Generator
from bench.generator.engine import Engine, EngineError
from bench.load import message_to, sender
from tests.bench.server import READY, Say, Sent, answer, cut, message, serving

MESSAGES = 300
NOT_MESSAGES = (
    frame("2"),
    frame('42["messages",{"content":"x"}]'),
    frame('42["typing",{"content":"42[\\"message\\",{}]"}]'),
    b"\x89\x02hi",
)


def test_every_message_is_counted_once_however_tcp_cuts_the_stream() -> None:
    stream = b""
    for n in range(MESSAGES):
        # Lengths on both sides of where the frame's header grows, and content that looks like another message.
        stream += message('42["message",{}]' + "x" * (n * 397 % 70_000 if n % 10 == 0 else n % 130))
        stream += NOT_MESSAGES[n % len(NOT_MESSAGES)]
    pongs: list[str] = []

    def connection(say: Say, incoming: Iterator[str]) -> None:
        pieces = cut(stream[: len(stream) // 50], 1) if not pongs else (stream[: len(stream) // 50],)
        for piece in pieces:
            say(piece)
        say(stream[len(stream) // 50 :] + READY)
        pongs.extend(next(incoming) for _ in range(150))

    with serving(connection) as port:
        engine = Engine(port)
        try:
            numbers = [engine.add("{}") for _ in range(3)]
            engine.open(at_once=1)
            engine.run(0.01)
            assert [engine.received(number) for number in numbers] == [MESSAGES] * 3
            assert engine.counters.messages == MESSAGES * 3
            assert engine.counters.heartbeats == 3 * MESSAGES / 4
            assert engine.counters.events == 3 * MESSAGES / 2
        finally:
            engine.close()
    assert sorted(set(pongs)) == ["3", "hi"]


def generated(connection: Any, *, window: int = 4, seconds: float = 0.05, drain: float = 10.0) -> dict[str, Any]:
    """A round of one sender, alone in its room, against a server that does what `connection` does."""
    with serving(connection) as port:
        generator = Generator(drain)
        try:
            generator.do_open(port, ["{}"], [[0]], at_once=1, timeout=5)
            generator.do_senders([sender(0, window, [message_to(0)])], [0])
            made: dict[str, Any] = generator.do_measure(os.getpid(), 0.0, seconds)
            return made
        finally:
            if generator.engine is not None:
                generator.engine.close()


def echo(say: Say, incoming: Iterator[str], *, twist: Any = None) -> None:
    say(READY)
    for count, text in enumerate(incoming, 1):
        sent = Sent(text)
        assert len(sent.payload["content"]) == 100
        deliveries = [message(**sent.payload)]
        if twist is not None and count == 2:  # the first four are on their way at once, the others when there is time
            deliveries = twist(deliveries, incoming, say)
        say(b"".join(deliveries) + answer(sent.number))


def test_what_was_acknowledged_and_delivered_is_what_was_sent() -> None:
    sent: list[str] = []

    def noted(incoming: Iterator[str]) -> Iterator[str]:
        for text in incoming:
            sent.append(text)
            yield text

    made = generated(lambda say, incoming: echo(say, noted(incoming)))
    assert made["acks"] == made["messages"] or abs(made["acks"] - made["messages"]) <= 4  # cut by the clock
    assert 0 < made["acks"] <= len(sent)
    assert len(sent) > 4, "where one was answered, another is sent"


def test_a_round_does_not_end_before_something_was_answered_and_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    went_on = threading.Semaphore(0)
    run = Engine.run

    def counted(engine: Engine, seconds: float) -> None:
        run(engine, seconds)
        if seconds > 0.01:  # beyond what was asked for
            went_on.release()

    monkeypatch.setattr(Engine, "run", counted)

    def connection(say: Say, incoming: Iterator[str]) -> None:
        say(READY)
        for text in incoming:
            sent = Sent(text)
            assert went_on.acquire(timeout=30)
            say(answer(sent.number))
            assert went_on.acquire(timeout=30)
            say(message(**sent.payload))

    made = generated(connection, window=1, seconds=0.01)
    assert made["acks"] > 0
    assert made["messages"] > 0


def _lost(*_: Any) -> list[bytes]:
    return []


def _repeated(deliveries: list[bytes], *_: Any) -> list[bytes]:
    return deliveries * 2


def _swapped(deliveries: list[bytes], incoming: Iterator[str], say: Say) -> list[bytes]:
    later = Sent(next(incoming))
    say(message(**later.payload) + answer(later.number))
    return deliveries


@pytest.mark.parametrize(
    ("twist", "complaint"),
    [(_lost, "message 3 came after 1"), (_repeated, "message 2 came after 2"), (_swapped, "message 3 came after 1")],
)
def test_a_lost_repeated_or_swapped_message_ends_the_run(twist: Any, complaint: str) -> None:
    with pytest.raises(EngineError, match=complaint):
        generated(lambda say, incoming: echo(say, incoming, twist=twist))


def test_a_message_that_one_connection_never_gets_is_missed_although_nothing_came_after_it() -> None:
    def connection(say: Say, incoming: Iterator[str]) -> None:
        say(READY)
        for text in incoming:
            say(answer(Sent(text).number))

    with pytest.raises(EngineError, match=r"connection 0 got 0 messages where \d+ were acknowledged"):
        generated(connection, drain=1.5)


def test_a_refused_or_unanswered_message_ends_the_run() -> None:
    def refuse(say: Say, incoming: Iterator[str]) -> None:
        say(READY)
        for text in incoming:
            say(answer(Sent(text).number, ok=False))

    def ignore(say: Say, incoming: Iterator[str]) -> None:
        say(READY)
        for _ in incoming:
            pass

    with pytest.raises(EngineError, match="were refused"):
        generated(refuse)
    with pytest.raises(EngineError, match="4 actions were not answered"):
        generated(ignore, drain=0.5)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"\x81\x81\0\0\0\0" + b"2", "masked"),
        (b"\x01\x012", "where a whole text frame is due"),
        (b"\xc1\x012", "where a whole text frame is due"),
        (b"\x88\x02\x03\xe8", "where a whole text frame is due"),
        (frame("1"), "unexpected packet"),
        (frame('44{"message":"no valid token"}'), "no valid token"),
        (frame("437[]"), "an acknowledgement of nothing"),
    ],
    ids=["masked", "fragment", "compressed", "close", "engine.io close", "refused", "unasked ack"],
)
def test_what_cannot_be_counted_ends_the_run(said: bytes, complaint: str) -> None:
    def connection(say: Say, incoming: Iterator[str]) -> None:
        say(said)

    with serving(connection) as port:
        engine = Engine(port)
        try:
            engine.add("{}")
            with pytest.raises(EngineError, match=complaint):
                engine.open(timeout=5)
        finally:
            engine.close()


def test_latency_is_the_time_from_sending_to_arrival() -> None:
    least: list[float] = []
    most: list[float] = []

    def connection(say: Say, incoming: Iterator[str]) -> None:
        say(READY)
        sent_at = None
        for text in incoming:
            came = time.monotonic_ns()
            if sent_at is not None:
                most.append((came - sent_at) / 1e6)  # the next is sent when this one has arrived
            sent = Sent(text)
            sent_at = int(sent.payload["content"][:16], 16)
            while (now := time.monotonic_ns()) - came < 10_000_000:
                pass
            least.append((now - sent_at) / 1e6)  # it arrives after this
            say(message(**sent.payload) + answer(sent.number))
        assert sent_at is not None
        most.append((time.monotonic_ns() - sent_at) / 1e6)

    made = generated(connection, window=1, seconds=0.2)
    for quantile in ("p50", "p99", "ack_p50", "ack_p99"):
        assert min(least) * 0.99 <= made[quantile] <= max(most) * 1.01
