"""Delivery: the journal appends, the hub fans out, catch-up replays, cursors remember, the broker joins nodes."""
