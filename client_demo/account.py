"""Signing in, over REST: `/api/register`, `/api/login`, `/api/refresh`, `/api/me`. The token is kept in the store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx

from client_demo.errors import ClientError, Offline, Refused, SignedOut, read_error
from client_demo.store import Store
from server.contract.errors import ErrorCode
from server.contract.models import Credentials

_ROUTES: Final = {
    "message": ("POST", "/api/messages"),
    "edit": ("PATCH", "/api/messages/{message_id}"),
    "delete": ("DELETE", "/api/messages/{message_id}"),
    "react": ("POST", "/api/messages/{message_id}/reactions"),
    "history": ("GET", "/api/messages"),
    "search": ("GET", "/api/search"),
    "create": ("POST", "/api/topics"),
    "create_conversation": ("POST", "/api/conversations"),
    "set_title": ("PUT", "/api/title"),
    "invite": ("POST", "/api/invitations"),
    "create_invitation_link": ("POST", "/api/invitation-links"),
    "join_by_link": ("POST", "/api/invitation-links/{code}"),
    "delete_invitation_link": ("DELETE", "/api/invitation-links/{code}"),
    "get_rooms": ("GET", "/api/rooms"),
    "connect_to_room": ("POST", "/api/rooms/connect"),
    "get_members": ("GET", "/api/members"),
    "get_receipts": ("GET", "/api/receipts"),
    "kick": ("POST", "/api/kicks"),
    "ban": ("POST", "/api/bans"),
    "unban": ("DELETE", "/api/bans"),
    "get_bans": ("GET", "/api/bans"),
    "mute": ("POST", "/api/mutes"),
    "set_role": ("PUT", "/api/roles"),
    "get_profile": ("GET", "/api/users/{username}"),
    "block": ("POST", "/api/blocks"),
    "unblock": ("DELETE", "/api/blocks"),
    "get_blocks": ("GET", "/api/blocks"),
    "get_sessions": ("GET", "/api/sessions"),
    "revoke_session": ("DELETE", "/api/sessions/{session_id}"),
    "change_password": ("POST", "/api/me/password"),
    "deactivate": ("POST", "/api/me/deactivate"),
    "get_pending": ("GET", "/api/pending"),
    "clear_pending": ("DELETE", "/api/pending"),
    "echo": ("POST", "/api/echo"),
    "echo_history": ("GET", "/api/echo"),
}
AskPassword = Callable[[], Awaitable[str | None]]
_SIGN_IN_AGAIN: Final = {ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_REVOKED}


class Account:
    """Who we are. `token` is valid as far as is known; `renew` gets the next one."""

    def __init__(self, server: str, store: Store, user: str, password: str | None = None) -> None:
        self.server = server
        self.username = user
        self._store = store
        self._password = password
        self._http = httpx.AsyncClient(base_url=server, timeout=15, follow_redirects=False)

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def token(self) -> str:
        """The newest one: another process of this device may have renewed it."""
        token = self._store.get("token")
        if token is None:
            raise SignedOut("signed out")
        return token

    @property
    def expires_in(self) -> float:
        """Seconds until the token expires, by this machine's clock."""
        return instant(self._store.get("expires_at") or "1970-01-01T00:00:00.000Z") - time.time()

    async def sign_in(self, register: Callable[[], Awaitable[bool]], ask_password: AskPassword) -> None:
        """Use the token that is kept; otherwise log in; otherwise, if `register` agrees, make the user.

        The server answers a wrong password and an unknown user alike, so only the person knows which it was.
        """
        if self._store.get("token") is not None:
            try:
                if await self._is_valid():
                    return
            except Offline:
                return  # whoever stays finds out when the server is back
        if self._password is None:
            self._password = await ask_password()
        if self._password is None:
            raise SignedOut(f"a password is needed to sign in as {self.username}: --password or TIDINGS_PASSWORD")
        try:
            await self._present("/api/login")
        except Refused as why:
            if why.code is not ErrorCode.UNAUTHENTICATED or not await register():
                raise
            try:
                await self._present("/api/register")
            except Refused as taken:
                if taken.code is ErrorCode.CONFLICT:
                    raise why from None  # there is such a user: it was the password
                raise

    async def renew(self) -> None:
        """Get a new token before the old one expires; with the password, if we have it, also after."""
        try:
            self._keep(await self.request("POST", "/api/refresh"))
        except Refused as why:
            if why.code not in _SIGN_IN_AGAIN:
                raise
            if self._password is None or why.code is ErrorCode.TOKEN_REVOKED:
                self._store.put(token=None, expires_at=None)
                raise SignedOut(f"{why.error.message}: sign in again") from None
            await self._present("/api/login")

    def forget_password(self) -> None:
        """It is no longer the one: the token goes on being renewed, and at its end a person signs in again."""
        self._password = None

    async def _is_valid(self) -> bool:
        try:
            self.username = (await self.request("GET", "/api/me"))["username"]
        except Refused as why:
            if why.code in _SIGN_IN_AGAIN:
                return False
            raise
        return True

    async def _present(self, path: str) -> None:
        who = {"username": self.username, "password": self._password}
        self._keep(await self.request("POST", path, who, signed=False))

    def _keep(self, data: dict[str, Any]) -> None:
        credentials = Credentials.model_validate(data, extra="ignore")
        self.username = credentials.user.username
        self._store.put(token=credentials.token, expires_at=credentials.expires_at)

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Ask an action over REST: for a script, which wants one answer and no events. Raises as `Connection.ask`."""
        method, path = _ROUTES[action]
        rest = {field: value for field, value in payload.items() if f"{{{field}}}" not in path}
        return await self.request(
            method, path.format_map({k: quote(str(v), safe="") for k, v in payload.items()}), rest
        )

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, signed: bool = True
    ) -> dict[str, Any]:
        """One REST request. Raises `Refused` for a problem document (RFC 9457), `Offline` without an answer."""
        headers = {"Authorization": f"Bearer {self.token}"} if signed else {}
        params, json = (body, None) if method in ("GET", "DELETE") else (None, body)
        try:
            answer = await self._http.request(method, path, params=params, json=json, headers=headers)
        except httpx.HTTPError as why:
            raise _unreachable(self.server, why) from None
        return _read(answer)


async def whose(server: str, token: str) -> str:
    """The username that a token speaks for. Raises `SignedOut` if it is not valid."""
    async with httpx.AsyncClient(timeout=15) as http:
        try:
            answer = await http.get(f"{server}/api/me", headers={"Authorization": f"Bearer {token}"})
        except httpx.HTTPError as why:
            raise _unreachable(server, why) from None
    try:
        return str(_read(answer)["username"])
    except Refused as why:
        raise (SignedOut(f"the token: {why}") if why.code in _SIGN_IN_AGAIN else why) from None


def _unreachable(server: str, why: httpx.HTTPError) -> Offline:
    return Offline(f"cannot reach {server}: {str(why) or type(why).__name__}")


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        data = answer.json() if answer.content else {}
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ClientError(f"{answer.url} does not speak this protocol (HTTP {answer.status_code})")
    if answer.is_success:
        return data
    raise Refused(read_error({**data, "message": data.get("message") or data.get("detail") or data.get("title")}))


def instant(timestamp: str) -> float:
    """The wire's ISO 8601 as seconds since the Unix epoch."""
    return datetime.fromisoformat(timestamp).timestamp()
