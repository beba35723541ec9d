"""The undocumented parts of python-socketio, python-engineio, uvicorn and websockets that Tidings uses still exist.

If a test fails after an upgrade, its message names what is gone or has changed. The uses are in
`python_socketio.py`, `application_manager.py`, `socketio_codecs.py`, `uvicorn_server.py`, `uvicorn_websocket.py` and
`websocket_frames.py` in `server/tidings/transport`, and `server/tidings/cluster/applications.py`.
"""

from __future__ import annotations

import dis
import inspect
from types import FunctionType
from typing import Any

import engineio
import pytest
import socketio
import uvicorn
from engineio.async_socket import AsyncSocket
from socketio import packet
from socketio.msgpack_packet import MsgPackPacket
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import _TrustedHosts
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets import utils

METHODS: dict[Any, dict[str, str]] = {
    socketio.AsyncServer: {
        "_engineio_server_class": "self",
        "_handle_connect": "self eio_sid namespace data",
        "_handle_disconnect": "self eio_sid namespace reason",
        "_handle_event_internal": "self server sid eio_sid data namespace id",
        "_handle_ack": "self eio_sid namespace id data",
        "_handle_eio_connect": "self eio_sid environ",
        "_handle_eio_disconnect": "self eio_sid reason",
        "_trigger_event": "self event namespace args",
        "_send_packet": "self eio_sid pkt",
        "instrument": "self auth mode read_only server_id namespace server_stats_interval",
    },
    socketio.AsyncManager: {
        "emit": "self event data namespace room skip_sid callback to kwargs",
        "get_namespaces": "self",
        "get_participants": "self namespace room",
        "get_rooms": "self sid namespace",
        "sid_from_eio_sid": "self eio_sid namespace",
        "eio_sid_from_sid": "self sid namespace",
        "is_connected": "self sid namespace",
        "pre_connect": "self eio_sid namespace",
        "pre_disconnect": "self sid namespace",
        "disconnect": "self sid namespace kwargs",
        "basic_enter_room": "self sid namespace room eio_sid",
        "can_disconnect": "self sid namespace",
        "enter_room": "self sid namespace room eio_sid",
        "leave_room": "self sid namespace room",
        "close_room": "self room namespace",
        "_generate_ack_id": "self sid callback",
        "trigger_callback": "self sid id data",
    },
    packet.Packet: {
        "encode": "self",
        "decode": "self encoded_packet",
        "add_attachment": "self attachment",
        "reconstruct_binary": "data attachments",
    },
    MsgPackPacket: {"encode": "self", "decode": "self encoded_packet"},
    engineio.AsyncServer: {
        "generate_id": "self",
        "_get_socket": "self sid",
        "_ok": "self packets headers jsonp_index",
    },
    AsyncSocket: {
        "handle_post_request": "self environ",
        "_websocket_handler": "self ws",
        "_send_ping": "self",
    },
    HttpToolsProtocol: {
        "connection_made": "self transport",
        "on_message_begin": "self",
        "on_url": "self url",
        "on_header": "self name value",
        "on_headers_complete": "self",
        "on_message_complete": "self",
        "on_response_complete": "self",
        "timeout_keep_alive_handler": "self",
        "pause_writing": "self",
        "resume_writing": "self",
        "data_received": "self data",
        "connection_lost": "self exc",
        "send_400_response": "self msg",
        "handle_websocket_upgrade": "self",
        "_should_upgrade": "self",
        "_get_upgrade": "self",
    },
    WebSocketsSansIOProtocol: {
        "handle_connect": "self event",
        "run_asgi": "self",
        "receive": "self",
        "send": "self message",
        "send_500_response": "self",
        "pause_writing": "self",
        "resume_writing": "self",
        "data_received": "self data",
        "connection_lost": "self exc",
    },
    uvicorn.Server: {
        "main_loop": "self",
        "on_tick": "self counter",
        "startup": "self sockets",
        "shutdown": "self sockets",
        "capture_signals": "self",
    },
    _TrustedHosts: {"__contains__": "self host"},
}


@pytest.mark.parametrize("used", METHODS, ids=lambda used: used.__name__)
def test_every_used_undocumented_method_has_its_signature(used: Any) -> None:
    changed = []
    for name, parameters in METHODS[used].items():
        method = getattr(used, name, None)
        if method is None:
            changed.append(f"{used.__name__}.{name} is gone")
        elif (now := " ".join(inspect.signature(method).parameters)) != parameters:
            changed.append(f"{used.__name__}.{name} takes ({now}), no longer ({parameters})")
    assert not changed, "\n".join(changed)


ATTRIBUTES: dict[type[Any], str] = {
    socketio.AsyncServer: "handlers namespace_handlers environ packet_class manager eio",
    socketio.AsyncManager: "rooms callbacks pending_disconnect",
    engineio.AsyncServer: (
        "sockets handlers cors_allowed_origins cors_credentials max_http_buffer_size ping_interval ping_timeout"
    ),
    HttpToolsProtocol: (
        "app_state client config connections cycle expect_100_continue flow headers loop parser pipeline root_path "
        "scheme scope server_state transport url ws_protocol_class"
    ),
    RequestResponseCycle: "response_complete response_started",
    FlowControl: "read_paused write_paused",
    WebSocketsSansIOProtocol: (
        "app close_timer connections handshake_complete handshake_initiated response scope transport"
    ),
    uvicorn.Server: "config lifespan server_state servers should_exit",
    ServerState: "connections default_headers",
    Config: "app forwarded_allow_ips",
}
"""The attributes of instances that Tidings uses."""


def assigned(used: type[Any]) -> set[str]:
    """The attributes that the methods of a class assign, to the instance as a rule."""
    functions = [value for base in used.__mro__ for value in vars(base).values() if isinstance(value, FunctionType)]
    return {
        instruction.argval
        for function in functions
        for instruction in dis.get_instructions(function)
        if instruction.opname == "STORE_ATTR"
    }


@pytest.mark.parametrize("used", ATTRIBUTES, ids=lambda used: used.__name__)
def test_every_used_undocumented_attribute_is_assigned(used: Any) -> None:
    assert set(ATTRIBUTES[used].split()) <= assigned(used) | set(dir(used))


def test_the_admin_ui_keeps_the_times_of_its_clients() -> None:
    server = socketio.AsyncServer(async_mode="asgi")
    server.instrument(auth=False)
    assert server.manager._timestamps == {}


def test_the_mask_of_websockets_takes_data_and_mask() -> None:
    assert list(inspect.signature(utils.apply_mask).parameters) == ["data", "mask"]
    assert utils.apply_mask(b"\x01\x02", b"\x01\x01\x01\x01") == b"\x00\x03"


def test_the_handlers_and_kinds_of_packets_are_the_expected_ones() -> None:
    server = socketio.AsyncServer(async_mode="asgi")
    assert {"not_handled", "reason"} <= set(dir(server))
    assert set(server.eio.handlers) == {"connect", "message", "disconnect"}
    assert [getattr(packet, name) for name in ("CONNECT", "DISCONNECT", "EVENT", "ACK", "CONNECT_ERROR")] == [
        *range(5)
    ]
    assert (packet.BINARY_EVENT, packet.BINARY_ACK) == (5, 6)
