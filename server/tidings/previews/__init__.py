"""Previews of the links in messages."""
