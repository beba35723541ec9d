"""Files of messages: their store, their uploads, and what is in them."""
