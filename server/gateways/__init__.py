"""Ways in. A gateway translates between a protocol and the dispatcher; it holds no rules."""
