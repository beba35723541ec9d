"""Passwords, tokens and sessions: how a caller becomes a `Principal`; names, and rate limits."""
