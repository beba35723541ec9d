"""The campaigns judge correctly, and send the frames that they intend to send."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, State
from websockets.server import ServerProtocol

from tests.campaign import powercut
from tests.campaign.__main__ import campaigns
from tests.campaign.support.lab import Area, Lab, parser, run, slope
from tests.campaign.support.load import PUBLISHED, Load, Reader, client_id_of, content_of
from tests.campaign.support.report import BROKEN, ERROR, KEPT, SKIPPED, NotTried, Report, Seen
from tests.campaign.support.wire import PONG, TEXT, frame
from tests.crash.checker import Ack, Entry, Law, Send, check
from tests.support.disk import Fault, NoCompiler, Recording


def options(tmp_path: Path, *arguments: str) -> argparse.Namespace:
    return parser("").parse_args(["--quick", "--json", str(tmp_path / "figures.json"), *arguments])


def area_of(**outcomes: Seen | Exception) -> Area:
    area = Area("made up")

    def make_check(outcome: Seen | Exception) -> Callable[[Lab], Any]:
        async def made_up_check(_: Lab) -> Seen:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return made_up_check

    for name, outcome in outcomes.items():
        area.check(name)(make_check(outcome))
    return area


KEPT_ONE, BROKEN_ONE = Seen(1, "x", "x", True), Seen(1, "x", "y", False)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ({"a": KEPT_ONE}, 0),
        ({"a": KEPT_ONE, "b": BROKEN_ONE}, 1),
        ({"a": KEPT_ONE, "b": NotTried("no rights")}, 0),
        ({"a": BROKEN_ONE, "b": ValueError("a bug of the check")}, 2),
    ],
)
def test_the_exit_status_is_0_only_if_every_promise_was_kept(
    outcomes: dict[str, Any], status: int, tmp_path: Path
) -> None:
    assert run("x", [area_of(**outcomes)], options(tmp_path)) == status
    figures = json.loads((tmp_path / "figures.json").read_text())
    kinds = [(NotTried, SKIPPED), (Exception, ERROR), (Seen, KEPT)]
    expected = [
        BROKEN if outcome is BROKEN_ONE else next(verdict for kind, verdict in kinds if isinstance(outcome, kind))
        for outcome in outcomes.values()
    ]
    assert [row["verdict"] for row in figures["checks"]] == expected


def test_a_check_that_cancels_itself_is_an_error_and_the_others_continue(tmp_path: Path) -> None:
    area = area_of(after=KEPT_ONE)

    async def cancelled(_: Lab) -> Seen:
        raise asyncio.CancelledError

    area.checks.insert(0, ("cancelled", cancelled))
    assert run("x", [area], options(tmp_path)) == 2


def test_the_runner_finds_the_campaigns() -> None:
    assert {"attacks", "faults", "soak"} <= campaigns().keys()


def test_the_table_names_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("x", seed=1)
    report.add("area", "promise", Seen(7, "nothing", "something", False), 0.5)
    line = capsys.readouterr().out
    assert [cell.strip() for cell in line.strip().strip("|").split("|")] == [
        *("promise", "7", "nothing", "something", BROKEN)
    ]


@pytest.mark.long
def test_a_run_whose_syncs_fail_without_end_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(powercut, "DEADLINE_S", 2.0)
    monkeypatch.setattr(powercut, "plans", lambda: [powercut.Plan("all syncs", [Fault("sync", every=1)])])
    try:
        Recording(tmp_path / "data", tmp_path / "recorded")
    except NoCompiler as error:
        pytest.skip(str(error))
    assert powercut.main(["--messages", "3", "--cuts", "5"]) == 1
    assert "not acknowledged within 2 s: 6 messages" in capsys.readouterr().out


def test_a_slope_is_computed_by_least_squares() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == 2
    assert slope([(0, 5), (1, 5), (2, 5)]) == 0
    assert slope([(0, 0), (1, 2), (2, 0)]) == 0


class MadeUpLoad:
    """A load with a made-up history: a message and an event, and one reader with cursors that has both."""

    def __init__(self) -> None:
        self.load = Load(None, "", 1)  # type: ignore[arg-type]  # no request is sent
        self.load.rooms = ["r"]
        self.log = []
        reader = Reader("ws", "reader0", "d0", exact=True)
        reader.begin()
        for seq, (name, kind) in enumerate((("message", "message"), (PUBLISHED, "event")), 1):
            client_id = f"writer0-{seq}"
            self.load.sends.append(Send("writer0", "r", client_id))
            self.load.acks.append(Ack("writer0", client_id, "r", seq, f"m{seq}"))
            self.log.append(Entry("r", seq, f"m{seq}", "writer0", client_id, kind, content=client_id))
            written = {"content": content_of(client_id)}
            fields = written if name == "message" else {"event": name, "data": written}
            reader.take(name, {"room_id": "r", "seq": seq, "id": f"m{seq}", **fields})
        self.reader = reader
        self.load.readers.append(reader)

    def laws(self) -> set[Law]:
        return {law for law, _ in check(self.load.history(self.log, {"r": len(self.log)}))}


def test_a_correct_history_has_no_violation() -> None:
    assert MadeUpLoad().laws() == set()


def test_each_planted_fault_in_a_history_is_a_violation() -> None:
    lost = MadeUpLoad()
    lost.log.pop()
    assert Law.LOST in lost.laws()
    gap = MadeUpLoad()
    del gap.reader.records[0].received[0]
    assert Law.GAP in gap.laws()
    behind = MadeUpLoad()
    del behind.reader.records[0].received[1]
    assert Law.GAP in behind.laws()
    repeat = MadeUpLoad()
    repeat.reader.records[0].received.append(repeat.reader.records[0].received[1])
    assert Law.REPEAT in repeat.laws()
    twice = MadeUpLoad()
    twice.log.append(twice.log[1]._replace(seq=3))
    assert Law.TWICE in twice.laws()
    reset = MadeUpLoad()
    reset.reader.records[0].reset.append("r")
    assert Law.KNOWN in reset.laws()


def test_a_content_that_lost_a_byte_is_not_taken_for_the_sent_one() -> None:
    whole = content_of("writer0-7")
    assert client_id_of(whole) == "writer0-7"
    assert client_id_of(whole[:-1]) != "writer0-7"
    other = MadeUpLoad()
    reception = other.reader.records[0].received[0]
    other.reader.records[0].received[0] = reception._replace(content=client_id_of(content_of("writer0-1")[:-1]))
    assert Law.CONVERGED in other.laws()


def test_frames_conform_to_rfc_6455() -> None:
    def parsed(data: bytes) -> list[Frame]:
        protocol = ServerProtocol(state=State.OPEN, max_size=None)
        assert protocol.side is SERVER
        protocol.receive_data(data)
        return [event for event in protocol.events_received() if isinstance(event, Frame)]

    for size in (0, 1, 125, 126, 65_535, 65_536, 70_001):
        (parsed_frame,) = parsed(frame(TEXT, b"x" * size))
        assert (parsed_frame.opcode, bytes(parsed_frame.data), parsed_frame.fin) == (Opcode.TEXT, b"x" * size, True)
    assert [each.opcode for each in parsed(frame(PONG, b"x") + frame(TEXT, b"y"))] == [Opcode.PONG, Opcode.TEXT]
