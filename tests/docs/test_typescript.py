"""The TypeScript compiler accepts what a client may do with the generated types, and refuses the rest."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from server.contract.errors import CloseReason, ErrorCode
from server.contract.events import EVENTS
from server.gateways import typescript
from tests.e2e.javascript import SCRIPTS, node
from tests.support.client import REGISTRY

TYPES = typescript.render(REGISTRY)


def test_the_types_fit_the_client_and_refuse_what_is_wrong(tmp_path: Path) -> None:
    for file in (SCRIPTS / "types").iterdir():
        (tmp_path / file.name).write_text(file.read_text("utf-8"), "utf-8")
    (tmp_path / "contract.ts").write_text(TYPES, "utf-8")
    (tmp_path / "node_modules").symlink_to(SCRIPTS / "node_modules")
    compiler = SCRIPTS / "node_modules/typescript/bin/tsc"
    arguments = [node("typescript"), compiler, "--project", tmp_path]
    told = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=100)
    assert (told.stdout, told.returncode) == ("", 0)


def test_every_action_event_code_and_reason_has_its_type() -> None:
    actions, events, live = _body("Actions"), _body("Events"), _body("ClientToServerEvents")
    for action in REGISTRY:
        for name in (action.name, *action.also):
            asks, answers = action.request.__name__, action.response.__name__
            assert f"  {name}: {{ request: {asks}; response: {answers} }};" in actions
            asked = f"  {name}: (request: {asks}, answer: (answer: Answer<{answers}>) => void) => void;"
            assert (asked in live) is action.live
    for name, model in EVENTS.items():
        assert f"  {name}: {model.__name__};" in events
        assert f"  {name}: (event: {model.__name__}) => void;" in _body("ServerToClientEvents")
    for kind, values in (("ErrorCode", ErrorCode), ("CloseReason", CloseReason)):
        union = " | ".join(json.dumps(value) for value in values)
        assert f"export type {kind} = {union};" in TYPES.splitlines()


def _body(interface: str) -> list[str]:
    return TYPES.partition(f"export interface {interface} {{\n")[2].partition("\n}\n")[0].splitlines()
