"""A node for the dialects' tests, and a watch over its log."""

from tests.gateways.conftest import gateway, quiet_log

__all__ = ("gateway", "quiet_log")
