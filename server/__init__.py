"""Tidings: a Socket.IO-compatible message server where an acknowledged message arrives."""
