"""Files that are uploaded beside a chat: what a chat notices of them, and how fast they are."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from bench.cpu import children, cores, cpu_seconds, on_core, peak_rss_kib, reset_peak
from bench.load import LoadFailed, message_to, sender
from bench.scenarios import Plan, Row, Scenario, Side, running
from bench.servers import Durable, Server, Tidings, World

SIZE = 1_000_000
PART = 512 * 1024
CLIENTS = 4
ROOMS = 10
"""Of two, in each of which one member writes."""
EVERY_S = 0.05
IMAGE_EVERY, READ_EVERY = 20, 10
"""Among the files of a client, so many are a photograph, and so many are downloaded after their upload."""
POLL_S = 0.02
WITHIN_S = 60.0


class Storing(Durable):
    """Node's socket.io + better-sqlite3 + @tus/server, FULL."""

    name = "Node + SQLite + tus"

    def command(self) -> tuple[list[str], dict[str, str]]:
        command, environment = super().command()
        return command, environment | {"PEER_UPLOADS": str(self.directory / "uploads")}


def photograph() -> bytes:
    """A JPEG of 12 megapixels and about as many bytes as the other files."""
    coarse = [Image.effect_noise((500, 375), 60).resize((4000, 3000), Image.Resampling.BICUBIC) for _ in "YCC"]
    target = BytesIO()
    Image.merge("YCbCr", coarse).save(target, "JPEG", quality=70)
    return target.getvalue()


class Client:
    """Uploads files one after the other. Raises `LoadFailed` if one is refused, or comes back as another one."""

    def __init__(self, server: Server, user: int, stopped: threading.Event) -> None:
        self._server = server
        self._headers = {
            "Authorization": f"Bearer {json.loads(server.auth(user))['token']}",
            "Tus-Resumable": "1.0.0",
        }
        self._http = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WITHIN_S)
        self._stopped = stopped
        self.bytes = 0

    def run(self, files: int, content: bytes, image: bytes) -> int:
        """Returns the number of bytes that were uploaded."""
        with_number = bytearray(content)
        for number in range(files):
            is_image = number % IMAGE_EVERY == 0
            with_number[:16] = f"{number:016}".encode()
            sent = image if is_image else bytes(with_number)
            location = self._upload(sent)
            if not is_image and number % READ_EVERY == READ_EVERY // 2 and self._download(location) != sent:
                raise LoadFailed(f"{self._server.name}: a file is another one than was uploaded")
        self._http.close()
        return self.bytes

    def _upload(self, content: bytes) -> str:
        location = self._ask("POST", "/api/uploads", 201, b"", **{"Upload-Length": str(len(content))})[0]
        for offset in range(0, len(content), PART):
            headers = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
            self._ask("PATCH", location, 204, content[offset : offset + PART], **headers)
            self.bytes += len(content[offset : offset + PART])
        return location

    def _download(self, location: str) -> bytes:
        if isinstance(self._server, Tidings):
            asked = json.dumps({"file_ids": [location.rpartition("/")[2]]}).encode()
            links = self._ask("POST", "/api/file-links", 200, asked, **{"Content-Type": "application/json"})[1]
            location = f"/{json.loads(links)['files'][0]['url']}"
        return self._ask("GET", location, 200)[1]

    def _ask(self, method: str, path: str, expected: int, body: bytes = b"", **headers: str) -> tuple[str, bytes]:
        """The `Location` and the body of an answer."""
        if self._stopped.is_set():
            raise LoadFailed("stopped")
        self._http.request(method, path, body, self._headers | headers)
        answer = self._http.getresponse()
        content = answer.read()
        if answer.status != expected:
            raise LoadFailed(f"{self._server.name}: {method} {path}: {answer.status} {content[:300]!r}")
        return answer.headers.get("Location", ""), content


@dataclass
class Result:
    quiet: dict[str, Any]
    """The chat without uploads."""
    beside: dict[str, Any]
    """The chat beside them."""
    mb_per_s: float
    cpu_us_per_mb: float
    """Of the server's process, with the chat's."""
    grown_mib: float
    """Of the server's process: its peak meanwhile, without what it had before."""
    examiner_mib: float
    """The peak of a process that examines an image; 0: there was none."""


@dataclass
class Uploads(Scenario):
    """Four users upload files, by tus in parts of 512 KiB, while others write at a steady rate.

    A twentieth of the files are photographs, which Tidings makes anew and the peer keeps as they are.
    """

    key: str = "uploads"
    title: str = "1,000 files of 1 MB"
    files: int = 1000
    server_types: Sequence[type[Server]] = field(default=(Storing, Tidings))

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        results: dict[type[Server], list[Result]] = {server_type: [] for server_type in self.server_types}
        contents = os.urandom(SIZE), photograph()
        for number in range(plan.rounds):
            for server_type, rounds in results.items():
                rounds.append(self._round(plan, server_type, directory / str(number), *contents))
                shutil.rmtree(directory / str(number))
                plan.round_done()
        return self._rows(*results.values())

    def _round(self, plan: Plan, server_type: type[Server], directory: Path, content: bytes, image: bytes) -> Result:
        chatting = 2 * ROOMS
        world = World(
            [[2 * room, 2 * room + 1] for room in range(ROOMS)] + [list(range(chatting, chatting + CLIENTS))]
        )
        each, stopped = plan.scaled(self.files, CLIENTS * READ_EVERY) // CLIENTS, threading.Event()
        with running(server_type, world, directory, opened=False) as (server, load):
            load.open(users=chatting)
            load.senders([sender(2 * room, 1, [message_to(room)]) for room in range(ROOMS)])
            quiet = load.measure(plan.warmup, plan.seconds, every=EVERY_S)
            clients = [Client(server, chatting + number, stopped) for number in range(CLIENTS)]
            reset_peak(server.pid)
            before, cpu, began, examiner = peak_rss_kib(server.pid), cpu_seconds(server.pid), time.perf_counter(), 0
            load.begin(EVERY_S)
            with on_core(cores()[1]), ThreadPoolExecutor(CLIENTS) as pool:
                try:
                    running_clients = [pool.submit(client.run, each, content, image) for client in clients]
                    while wait(running_clients, POLL_S).not_done:
                        examiner = max(examiner, *map(_peak_kib, children(server.pid)), 0)
                finally:
                    stopped.set()
                size = sum(map(Future.result, running_clients)) / 1e6
            seconds = time.perf_counter() - began
            cpu, grown = cpu_seconds(server.pid) - cpu, peak_rss_kib(server.pid) - before
            beside = load.end()
        return Result(quiet, beside, size / seconds, cpu * 1e6 / size, grown / 1024, examiner / 1024)

    def _rows(self, peer: list[Result], ours: list[Result]) -> list[Row]:
        node, tidings = Storing.name, Tidings.name
        examiner = median(result.examiner_mib for result in ours)
        rows = [
            Row(
                self.key,
                f"{self.title} beside a chat: uploads",
                "MB/s",
                Side(node, [result.mb_per_s for result in peer], median(result.cpu_us_per_mb for result in peer)),
                Side(tidings, [result.mb_per_s for result in ours], median(result.cpu_us_per_mb for result in ours)),
                "",
                0.0,
                True,
                note=f"{node} keeps the photographs as they are",
            ),
            Row(
                self.key,
                f"{self.title} beside a chat: memory",
                "MiB at the peak",
                Side(node, [result.grown_mib for result in peer]),
                Side(tidings, [result.grown_mib for result in ours]),
                "",
                0.0,
                False,
                note=f"and {examiner:.0f} MiB in the process that examines a photograph, one at a time",
            ),
        ]
        for title, name in (("ack", "ack"), ("delivery", "arrival")):
            for quantile in (50, 99):
                without, beside = (self._latency(tidings, ours, name, quantile, quiet) for quiet in (True, False))
                theirs = [self._latency(node, peer, name, quantile, quiet).value for quiet in (True, False)]
                without.name = "without them"
                rows.append(
                    Row(
                        self.key,
                        f"a chat beside {self.title}: {title}",
                        f"ms (p{quantile})",
                        without,
                        beside,
                        "",
                        0.0,
                        False,
                        note=f"p{quantile}: {theirs[1]:.2f} ms in {node}, {theirs[0]:.2f} ms without them",
                    )
                )
        return rows

    def _latency(self, name: str, rounds: list[Result], of: str, quantile: int, quiet: bool) -> Side:
        if quiet:
            found = f"p{quantile}" if of == "arrival" else f"ack_p{quantile}"
            return Side(name, [result.quiet[found] for result in rounds])
        return Side(name, [result.beside[f"{of}_{quantile}"] for result in rounds])


def _peak_kib(pid: int) -> int:
    with suppress(OSError, LookupError):  # it has ended
        return peak_rss_kib(pid)
    return 0
