"""The terminal client: a chat, and commands for scripts. It is also an example of how to write a client.

A client has three duties, so that the server's guarantees hold up to the screen:

- It stores a message under its own `client_id` before sending it, and until it is acknowledged (`outbox`).
- It keeps a cursor per room, which moves only after an entry was shown (`store`), and brings the cursors at every
  connect (`client`).
- It handles events in the order of their arrival, and drops entries that the cursor has passed (`client`).
"""
