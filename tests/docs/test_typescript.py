"""The generated types compile with a correct client and refuse wrong uses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.e2e.javascript import SCRIPTS, node
from tests.support.client import REGISTRY
from tidings.contract.errors import CloseReason, ErrorCode
from tidings.contract.events import EVENTS
from tidings.gateways import typescript

TYPES = typescript.render(REGISTRY)


def test_the_types_accept_a_correct_client_and_refuse_wrong_uses(tmp_path: Path) -> None:
    for file in (SCRIPTS / "types").iterdir():
        (tmp_path / file.name).write_text(file.read_text("utf-8"), "utf-8")
    (tmp_path / "contract.ts").write_text(TYPES, "utf-8")
    (tmp_path / "node_modules").symlink_to(SCRIPTS / "node_modules")
    compiler = SCRIPTS / "node_modules/typescript/bin/tsc"
    arguments = [node("typescript"), compiler, "--project", tmp_path]
    result = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=100)
    assert (result.stdout, result.returncode) == ("", 0)


def test_every_action_event_code_and_reason_has_a_type() -> None:
    actions, events, live = _body("Actions"), _body("Events"), _body("ClientToServerEvents")
    for action in REGISTRY:
        for name in (action.name, *action.aliases):
            request, response = action.request.__name__, action.response.__name__
            assert f"  {name}: {{ request: {request}; response: {response} }};" in actions
            method = f"  {name}: (request: {request}, answer: (answer: Answer<{response}>) => void) => void;"
            assert (method in live) is action.live
    for name, model in EVENTS.items():
        assert f"  {name}: {model.__name__};" in events
        assert f"  {name}: (event: {model.__name__}) => void;" in _body("ServerToClientEvents")
    for kind, values in (("ErrorCode", ErrorCode), ("CloseReason", CloseReason)):
        union = " | ".join(json.dumps(value) for value in values)
        assert f"export type {kind} = {union};" in TYPES.splitlines()


def _body(interface: str) -> list[str]:
    return TYPES.partition(f"export interface {interface} {{\n")[2].partition("\n}\n")[0].splitlines()
