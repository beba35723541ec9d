"""The kit for programs in other languages: commands as JSON lines on stdin, answers as JSON lines on stdout.

The first line out is `{"url"}`, or `{"error"}` if it cannot start. Each command `{"id", "do": name of an operation,
...its arguments}` is answered by `{"id", "result"}` or `{"id", "error"}`, not always in order. The server ends when
stdin is closed, and writes `{"error"}` if an answer that was to be lost was never asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from tidings.testing.kit import Tidings, User, serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tidings.testing", description=__doc__)
    parser.add_argument("--app", help='where your application is, such as "orders:app"')
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--settings", type=json.loads, default={}, help="changes to the settings, as JSON")
    options = parser.parse_args()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the application prints is not an answer
    sys.path.insert(0, os.getcwd())

    def answer(**line: Any) -> None:
        with suppress(BrokenPipeError):
            out.write(json.dumps(line) + "\n")

    running = serve(options.app, nodes=options.nodes, settings=options.settings)
    try:
        with suppress(KeyboardInterrupt), running as tidings:
            answer(url=tidings.url)
            for line in sys.stdin:
                command = json.loads(line)
                _perform(tidings, command.pop("id"), command, answer)
    except Exception as error:  # it cannot start, or the test was wrong about what it would do
        answer(error=str(error))
        sys.exit(1)


def _perform(tidings: Tidings, number: int, command: dict[str, Any], answer: Callable[..., None]) -> None:
    def done(future: Future[Any]) -> None:
        try:
            result = future.result()
        except (CancelledError, Exception) as error:
            answer(id=number, error=f"{type(error).__name__}: {error}")
        else:
            answer(id=number, result=asdict(result) if isinstance(result, User) else result)

    name = command.pop("do")
    if not hasattr(getattr(Tidings, name, None), "__wrapped__"):
        return answer(id=number, error=f"no operation {name}")
    if "client" in command:
        command["client"] = tuple(command["client"])
    try:
        begun = getattr(tidings, name)(**command)
    except TypeError as error:
        return answer(id=number, error=str(error))
    begun.future.add_done_callback(done)


if __name__ == "__main__":
    main()
