"""Webhooks: the entries of rooms, sent to addresses of other systems as Standard Webhooks describes it."""
