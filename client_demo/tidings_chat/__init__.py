"""The terminal client: a chat, and commands for scripts.

Sending once, receiving once and in order, and staying connected are the duties of the client library,
`tidings_client`; this package shows what it receives. It keeps the sign-in (`state`, `account`), how far the screen
has come (`positions`), and which messages a tail has yet to print (`tail`).
"""
