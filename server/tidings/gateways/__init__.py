"""The gateways. Each translates between a protocol and the dispatcher, and has no rules of its own."""
