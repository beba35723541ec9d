"""The terminal client: chat in a terminal, send and tail from scripts; and an example of how to write a client.

What a client has to do so that the server's guarantees reach the person in front of it:

- keep a message on disk before it is sent, under a `client_id` of its own, until it is acknowledged (`outbox`);
- keep a cursor per room, moved in the transaction in which an entry is taken (`store`), and bring the cursors
  at every connect (`connection`);
- take events in the order in which they arrive, and drop what the cursor has already passed (`client`).
"""
