"""The load generator counts exactly the arrived messages; an unexpected frame ends the run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench.capacity import frame
from bench.generator.__main__ import Generator
from bench.generator.engine import Engine, EngineError
from bench.load import message_to, sampled, sender
from tests.bench.server import READY, Sent, Write, answer, cut, message, serving

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
        # Lengths on both sides of each header size, and content that looks like another message.
        name = "published" if n % 3 else "message"
        stream += message('42["message",{}]' + "x" * (n * 397 % 70_000 if n % 10 == 0 else n % 130), name)
        stream += NOT_MESSAGES[n % len(NOT_MESSAGES)]
    pongs: list[str] = []

    def connection(write: Write, incoming: Iterator[str]) -> None:
        pieces = cut(stream[: len(stream) // 50], 1) if not pongs else (stream[: len(stream) // 50],)
        for piece in pieces:
            write(piece)
        write(stream[len(stream) // 50 :] + READY)
        pongs.extend(next(incoming) for _ in range(150))

    with serving(connection) as port:
        engine = Engine()
        try:
            numbers = [engine.add(port, "{}") for _ in range(3)]
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
    """A round of one sender, alone in its room, against a server that runs `connection`."""
    with serving(connection) as port:
        generator = Generator(drain)
        try:
            generator.do_open([port], ["{}"], [[0]], at_once=1, timeout=5)
            generator.do_senders([sender(0, window, [message_to(0)])], [0])
            results: dict[str, Any] = generator.do_measure([os.getpid()], 0.0, seconds)
            return results
        finally:
            if generator.engine is not None:
                generator.engine.close()


def echo(write: Write, incoming: Iterator[str], *, twist: Any = None) -> None:
    write(READY)
    for count, text in enumerate(incoming, 1):
        sent = Sent(text)
        assert len(sent.payload["content"]) == 100
        deliveries = [message(**sent.payload)]
        if twist is not None and count == 2:  # the first four are sent together
            deliveries = twist(deliveries, incoming, write)
        write(b"".join(deliveries) + answer(sent.number))


def test_the_round_counts_acknowledged_and_delivered_messages() -> None:
    sent: list[str] = []

    def recorded(incoming: Iterator[str]) -> Iterator[str]:
        for text in incoming:
            sent.append(text)
            yield text

    results = generated(lambda write, incoming: echo(write, recorded(incoming)), seconds=1.0)
    # The end of the round may fall between an answer and its delivery.
    assert abs(results["acks"] - results["messages"]) <= 4
    assert 0 < results["acks"] <= len(sent)
    assert len(sent) > 4, "each answer lets the sender send another message"


def test_a_round_lasts_until_a_message_is_answered_and_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    extended = threading.Semaphore(0)
    run = Engine.run

    def signalled(engine: Engine, seconds: float) -> None:
        run(engine, seconds)
        if seconds > 0.01:  # longer than requested
            extended.release()

    monkeypatch.setattr(Engine, "run", signalled)

    def connection(write: Write, incoming: Iterator[str]) -> None:
        write(READY)
        for text in incoming:
            sent = Sent(text)
            assert extended.acquire(timeout=30)
            write(answer(sent.number))
            assert extended.acquire(timeout=30)
            write(message(**sent.payload))

    results = generated(connection, window=1, seconds=0.01)
    assert results["acks"] > 0
    assert results["messages"] > 0


def generated_on_nodes(
    *, look_into: list[int], pids: list[int] | None = None, lose: int = -1, every: float = 0.0
) -> dict[str, Any]:
    """A round of connection 0 on one node, in a room with connection 1 on another, which loses message `lose`."""
    other: list[Write] = []

    def receiving(write: Write, incoming: Iterator[str]) -> None:
        other.append(write)
        write(READY)
        for _ in incoming:
            pass

    def sending(write: Write, incoming: Iterator[str]) -> None:
        write(READY)
        for number, text in enumerate(incoming):
            sent = Sent(text)
            delivery = message(**sent.payload)
            if number != lose:
                other[0](delivery)  # first: a round that has seen the answer has seen this too
            write(delivery + answer(sent.number))

    with serving(sending) as port, serving(receiving) as other_port:
        generator = Generator(1.5 if lose >= 0 else 10.0)
        try:
            generator.do_open([port, other_port], ["{}", "{}"], [[0, 1]], at_once=1, timeout=5)
            generator.do_senders([sender(0, 4, [message_to(0)])], look_into)
            results: dict[str, Any] = generator.do_measure(pids or [os.getpid()], 0.0, 0.2, every=every)
            assert generator.engine is not None
            assert generator.engine.counters.messages == 2 * generator.engine.counters.acks
            return results
        finally:
            if generator.engine is not None:
                generator.engine.close()


def test_the_deliveries_of_all_nodes_are_counted() -> None:
    results = generated_on_nodes(look_into=[])
    assert results["acks"] > 4
    # The round may end between the deliveries of a message.
    assert abs(results["messages"] - 2 * results["acks"]) <= 8


def test_a_message_lost_on_another_node_ends_the_run() -> None:
    with pytest.raises(EngineError, match="connection 1 got"):
        generated_on_nodes(look_into=[], lose=1)
    with pytest.raises(EngineError, match="connection 1, slot 0: message 3 came after 1"):
        generated_on_nodes(look_into=[1], lose=1)


def test_latency_is_kept_apart_for_receivers_on_the_node_of_the_sender_and_on_another() -> None:
    near, far = (generated_on_nodes(look_into=[connection]) for connection in (0, 1))
    assert near["far_p50"] == near["far_p99"] == 0
    assert near["near_p50"] == near["p50"] > 0
    assert far["near_p50"] == far["near_p99"] == 0
    assert far["far_p50"] == far["p50"] > 0


def test_the_processor_time_of_all_nodes_is_added_up() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            results = generated_on_nodes(look_into=[], pids=[os.getpid(), busy.pid])
        finally:
            busy.kill()
    assert all(results["cpus"])
    assert results["cpu"] == sum(results["cpus"])


def test_a_sender_with_an_interval_does_not_send_at_each_answer() -> None:
    results = generated_on_nodes(look_into=[], every=10.0)
    assert results["acks"] == 4, "the messages in flight, once"


@pytest.mark.parametrize("users", [2, 4, 16, 200, 500, 5000])
def test_messages_are_looked_into_on_both_of_two_nodes(users: int) -> None:
    assert {connection % 2 for connection in sampled(users)} == {0, 1}
    assert max(sampled(users)) < users


def _lost(*_: Any) -> list[bytes]:
    return []


def _repeated(deliveries: list[bytes], *_: Any) -> list[bytes]:
    return deliveries * 2


def _swapped(deliveries: list[bytes], incoming: Iterator[str], write: Write) -> list[bytes]:
    later = Sent(next(incoming))
    write(message(**later.payload) + answer(later.number))
    return deliveries


@pytest.mark.parametrize(
    ("twist", "complaint"),
    [
        (_lost, "message 3 came after 1"),
        (_repeated, "message 2 came after 2"),
        (_swapped, "message 3 came after 1"),
    ],
)
def test_a_lost_repeated_or_swapped_message_ends_the_run(twist: Any, complaint: str) -> None:
    with pytest.raises(EngineError, match=complaint):
        generated(lambda write, incoming: echo(write, incoming, twist=twist))


def test_a_message_lost_at_the_end_of_a_round_ends_the_run() -> None:
    def connection(write: Write, incoming: Iterator[str]) -> None:
        write(READY)
        for text in incoming:
            write(answer(Sent(text).number))

    with pytest.raises(EngineError, match=r"connection 0 got 0 messages where \d+ were acknowledged"):
        generated(connection, drain=1.5)


def test_a_refused_or_unanswered_message_ends_the_run() -> None:
    def refuse(write: Write, incoming: Iterator[str]) -> None:
        write(READY)
        for text in incoming:
            write(answer(Sent(text).number, ok=False))

    def ignore(write: Write, incoming: Iterator[str]) -> None:
        write(READY)
        for _ in incoming:
            pass

    with pytest.raises(EngineError, match="were refused"):
        generated(refuse)
    with pytest.raises(EngineError, match="4 actions were not answered"):
        generated(ignore, drain=0.5)


@pytest.mark.parametrize(
    ("frames", "complaint"),
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
def test_an_unexpected_frame_ends_the_run(frames: bytes, complaint: str) -> None:
    def connection(write: Write, incoming: Iterator[str]) -> None:
        write(frames)

    with serving(connection) as port:
        engine = Engine()
        try:
            engine.add(port, "{}")
            with pytest.raises(EngineError, match=complaint):
                engine.open(timeout=5)
        finally:
            engine.close()


def test_latency_is_the_time_from_sending_to_arrival() -> None:
    least: list[float] = []
    most: list[float] = []

    def connection(write: Write, incoming: Iterator[str]) -> None:
        write(READY)
        sent_at = None
        for text in incoming:
            arrived_at = time.monotonic_ns()
            if sent_at is not None:
                most.append((arrived_at - sent_at) / 1e6)  # the next message is sent when this one has arrived
            sent = Sent(text)
            sent_at = int(sent.payload["content"][:16], 16)
            while (now := time.monotonic_ns()) - arrived_at < 10_000_000:
                pass
            least.append((now - sent_at) / 1e6)  # the message arrives after this
            write(message(**sent.payload) + answer(sent.number))
        assert sent_at is not None
        most.append((time.monotonic_ns() - sent_at) / 1e6)

    results = generated(connection, window=1, seconds=0.2)
    for quantile in ("p50", "p99", "ack_p50", "ack_p99"):
        assert min(least) * 0.99 <= results[quantile] <= max(most) * 1.01
