"""Tidings: a Socket.IO-compatible message server. Once a message is acknowledged, everyone gets it."""

__version__ = "0.1.0"
