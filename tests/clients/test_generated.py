"""The library's typed actions and errors agree with the registry."""

from __future__ import annotations

import tidings_client.contract
from docs import python_client
from tests.support.client import REGISTRY
from tidings.contract.errors import ErrorCode
from tidings_client import Refused


def test_the_generated_module_is_current() -> None:
    assert python_client.MODULE.read_text("utf-8") == python_client.render(REGISTRY), "stale: run `make docs`"


def test_every_live_action_has_a_method_and_every_code_a_class() -> None:
    for action in REGISTRY:
        assert hasattr(tidings_client.contract.Actions, action.name) is action.live
    for code in ErrorCode:
        error = Refused.read({"code": code, "message": "why", "details": {}, "retryable": code.retryable})
        assert type(error) is not Refused
        assert (error.code, error.retryable) == (code, code.retryable)
