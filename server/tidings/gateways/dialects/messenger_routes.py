"""The messenger: the table of its HTTP routes, which are served and described from it, and its WebSocket."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tidings.gateways.dialects import messenger_rest as rest
from tidings.gateways.dialects.messenger import PATH, MessengerClient
from tidings.gateways.dialects.mounting import Dialects
from tidings.gateways.dialects.routes import ID, NAME, TIME, TOKEN, DialectRoute, Tag, list_of, record

if TYPE_CHECKING:
    from tidings.gateways.schemas import Schema

_TAG: Final = Tag("dialect: messenger", "The messenger: every answer is `{Message, Data}`")
_TIME_OR_NONE: Final[Schema] = {"anyOf": [{"type": "null"}, TIME]}
_MESSAGE: Final[Schema] = {
    "type": "object",
    "required": ["MessageId", "ConversationId", "Sender", "Message", "Created", "Edited", "Deleted", "Seq"],
    "additionalProperties": False,
    "properties": {
        "MessageId": ID,
        "ConversationId": ID,
        "Sender": NAME,
        "Message": {"type": "string", "description": "Empty when `Deleted`"},
        "Created": TIME,
        "Edited": _TIME_OR_NONE,
        "Deleted": {"type": "boolean"},
        "Seq": {"type": "integer", "minimum": 1},
        "ClientId": {"type": "string", "description": "As given by the sender; sent to the sender only"},
    },
}
_PROFILE: Final = record(Username=NAME, LoggedOn={"type": "boolean"}, LastOnline=TIME, Created=TIME)
_CONVERSATION: Final = record(
    ConversationId=ID,
    Members=list_of(NAME),
    Name={"type": ["string", "null"]},
    LastMessage={"anyOf": [{"type": "null"}, _MESSAGE]},
    Unread={"type": "integer", "minimum": 0},
)
_route: Final = partial(DialectRoute, tag=_TAG)


def _user(http: str, name: str, action: str, status: int, envelope: str, summary: str) -> DialectRoute:
    return _route(
        http=http,
        name=name,
        summary=summary,
        serve=partial(rest.sign_in, action=action),
        envelope=envelope,
        status=status,
        answer=TOKEN,
        body={"Username": f"{action}.username", "Password": f"{action}.password"},
        actions=(action,),
        anonymous=True,
        token="Data",
    )


ROUTES: Final = (
    _user("POST /user", "messenger_create_user", "register", 201, "User created", "Create a user; `Data` is a JWT"),
    _user("POST /user/login", "messenger_login", "login", 200, "Logged in", "Sign in; `Data` is a JWT"),
    _route(
        http="POST /user/logout",
        name="messenger_logout",
        summary="End the user's sessions of this dialect",
        serve=rest.logout,
        envelope="Logged out",
        answer={"type": "null"},
        actions=("logout",),
    ),
    _route(
        http="GET /user/{Username}",
        name="messenger_profile",
        summary="Get a user, and whether they are logged on",
        serve=rest.profile,
        envelope="Profile",
        answer=_PROFILE,
        path={"Username": "get_profile.username"},
        actions=("get_profile",),
    ),
    _route(
        http="POST /conversation",
        name="messenger_create_conversation",
        summary="Open the conversation with a user, or create a group; `Data` is its ConversationId",
        serve=rest.create_conversation,
        envelope="Conversation created",
        status=201,
        answer=ID,
        body={"Recipient": "get_profile.username", "Recipients": "create_conversation.usernames"},
        one_of=("Recipient", "Recipients"),
        actions=("create_conversation",),
    ),
    _route(
        http="GET /conversation",
        name="messenger_conversations",
        summary="Get the caller's conversations: all, or a page of them",
        serve=rest.conversations,
        envelope="Conversations",
        answer=list_of(_CONVERSATION),
        query={"after": "get_rooms.after", "limit": "get_rooms.limit"},
        actions=("get_rooms", "get_members"),
    ),
    _route(
        http="POST /message",
        name="messenger_send",
        summary="Send a message; `Data` is its MessageId",
        serve=rest.create_message,
        envelope="Message created",
        status=201,
        answer=ID,
        body={
            "ConversationId": "message.room_id",
            "Recipient": "message.username",
            "Message": "message.content",
            "ClientId": "message.client_id",
        },
        one_of=("ConversationId", "Recipient"),
        optional=("ClientId",),
        actions=("message",),
        keyed=True,
    ),
    _route(
        http="PUT /message",
        name="messenger_edit",
        summary="Edit one's own message",
        serve=rest.edit_message,
        envelope="Message edited",
        answer=_MESSAGE,
        body={"MessageId": "edit.message_id", "Message": "edit.content"},
        actions=("edit",),
    ),
    *(
        _route(
            http=f"DELETE {path}",
            name=name,
            summary="Delete a message",
            serve=rest.delete_message,
            envelope="Message deleted",
            answer={"type": "null"},
            path={path.partition("{")[2].strip("}"): "delete.message_id"},
            actions=("delete",),
        )
        for path, name in (
            ("/message{MessageId}", "messenger_delete_without_slash"),  # documented so
            ("/message/{Id}", "messenger_delete"),
        )
    ),
    _route(
        http="GET /message/{Id}",
        name="messenger_messages",
        summary="Get the messages of a conversation by its ConversationId, oldest first: all, or a page of them",
        serve=rest.messages,
        envelope="Messages",
        answer=list_of(_MESSAGE),
        path={"Id": "history.room_id"},
        query={"before": "history.before", "limit": "history.limit"},
        actions=("history",),
    ),
)


def mount(dialects: Dialects) -> None:
    backend = dialects.backend
    dialects.add_websocket(PATH, MessengerClient)
    dialects.add_routes(partial(rest.install, routes=ROUTES, parts=backend.parts, dispatcher=backend.dispatcher))
