"""Tidings: a Socket.IO-compatible message server where an acknowledged message arrives."""

__version__ = "0.1.0"
