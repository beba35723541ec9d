"""Signing in over REST, and REST requests with the token, which is kept in the store."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import quote

import httpx

from tidings.contract.models import Credentials
from tidings_chat.errors import SignedOut, message_of, reason_of
from tidings_chat.i18n import t
from tidings_chat.state import State
from tidings_client import Conflict, Offline, ProtocolError, Refused, TidingsError, TokenRevoked, Unauthenticated

PROGRAM: Final = "tidings-chat"


def _version() -> str:
    try:
        return version("tidings")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


VERSION: Final = _version()
USER_AGENT: Final = f"{PROGRAM}/{VERSION} ({platform.system() or 'unknown system'})"
"""Shown in the user's list of sessions."""

AskPassword = Callable[[], Awaitable[str | None]]
_SIGN_IN_AGAIN: Final = {"unauthenticated", "token_expired", "token_revoked"}


class Account:
    """A user's sign-in on one server. `token` is the newest one; `renew` exchanges it for the next."""

    def __init__(self, server: str, state: State, user: str, password: str | None = None) -> None:
        """`user` may be cased differently from the registered username, which the state has after a sign-in."""
        self.server = server
        self.username = state.get("username") or user
        self._state = state
        self._password = password
        self._routes: dict[str, str] = {}
        self._http = httpx.AsyncClient(
            base_url=server, timeout=15, follow_redirects=False, headers={"User-Agent": USER_AGENT}
        )

    async def close(self) -> None:
        await self._http.aclose()

    def token(self) -> str:
        """Read from the state, because another process of this device may have renewed it."""
        token = self._state.get("token")
        if token is None:
            raise SignedOut(t("signed out"))
        return token

    async def fresh_token(self) -> str:
        """A new token for a connection; the present one if it cannot be exchanged now. Raises `SignedOut`."""
        try:
            await self.renew()
        except SignedOut:
            raise
        except TidingsError:
            pass  # the connect says whether the present one is good
        return self.token()

    def expires_in(self) -> float:
        """Seconds until the token expires, by this machine's clock."""
        expires_at = self._state.get("expires_at") or "1970-01-01T00:00:00.000Z"
        return datetime.fromisoformat(expires_at).timestamp() - time.time()

    async def sign_in(self, register: Callable[[], Awaitable[bool]], ask_password: AskPassword) -> None:
        """Use the stored token; else log in; else register the user, if `register` returns True.

        The server answers a wrong password and an unknown user alike, so only the user knows which it was.
        Raises `SignedOut` without a password, and `Refused`.
        """
        if self._state.get("token") is not None:
            try:
                if await self._is_valid():
                    return
            except Offline:
                return  # the token is checked at the connect, once the server is back
        if self._password is None:
            self._password = await ask_password()
        if self._password is None:
            raise SignedOut(
                t("a password is needed to sign in as {user}: --password or TIDINGS_PASSWORD", user=self.username)
            )
        try:
            await self._sign_in_at("/api/login")
        except Unauthenticated as error:
            if not await register():
                raise
            try:
                await self._sign_in_at("/api/register")
            except Conflict:
                raise error from None  # the user exists, so the password was wrong

    async def renew(self) -> None:
        """Exchange the token for a new one. After it has expired, that takes the password. Raises `SignedOut`."""
        try:
            self._keep(await self.request("POST", "/api/refresh"))
        except Refused as error:
            if error.code not in _SIGN_IN_AGAIN:
                raise
            if self._password is None or isinstance(error, TokenRevoked):
                self._state.put(token=None, expires_at=None)
                raise SignedOut(t("{reason}: sign in again", reason=reason_of(error))) from None
            await self._sign_in_at("/api/login")

    def forget_password(self) -> None:
        """The password has changed. The token is still renewed; once it has expired, the user signs in again."""
        self._password = None

    async def _is_valid(self) -> bool:
        try:
            self._set_username((await self.request("GET", "/api/me"))["username"])
        except Refused as error:
            if error.code in _SIGN_IN_AGAIN:
                return False
            raise
        return True

    def _set_username(self, username: str) -> None:
        self.username = username
        self._state.put(username=username)

    async def _sign_in_at(self, path: str) -> None:
        body = {"username": self.username, "password": self._password}
        self._keep(await self.request("POST", path, body, signed=False))

    def _keep(self, data: dict[str, Any]) -> None:
        credentials = Credentials.model_validate(data, extra="ignore")
        self._set_username(credentials.user.username)
        self._state.put(token=credentials.token, expires_at=credentials.expires_at)

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Request an action over REST, without a connection. Raises like `Client.ask`."""
        method, path = await self._route(action)
        rest = {field: value for field, value in payload.items() if f"{{{field}}}" not in path}
        return await self.request(
            method, path.format_map({k: quote(str(v), safe="") for k, v in payload.items()}), rest
        )

    async def _route(self, action: str) -> tuple[str, str]:
        """Return the method and the path of an action, which the server's OpenAPI document names.

        The routes are stored until this client has another version.
        """
        if not self._routes:
            stored = json.loads(self._state.get("routes") or "{}")
            self._routes = stored.get(VERSION, {})
        if action not in self._routes:
            document = await self.request("GET", "/openapi.json", signed=False)
            self._routes = {
                operation["operationId"]: f"{method.upper()} {path}"
                for path, operations in document["paths"].items()
                for method, operation in operations.items()
            }
            self._state.put(routes=json.dumps({VERSION: self._routes}))
        if action not in self._routes:
            raise ProtocolError(t("{server} has no route for {action}", server=self.server, action=action))
        method, path = self._routes[action].split(" ", 1)
        return method, path

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, signed: bool = True
    ) -> dict[str, Any]:
        """Send one REST request. Raises `Refused` for a problem document (RFC 9457), `Offline` if no answer comes."""
        headers = {"Authorization": f"Bearer {self.token()}"} if signed else {}
        params, content = (body, None) if method in ("GET", "DELETE") else (None, body)
        try:
            answer = await self._http.request(method, path, params=params, json=content, headers=headers)
        except httpx.HTTPError as error:
            raise _unreachable(self.server, error) from None
        return _read(answer)


async def username_of(server: str, token: str) -> str:
    """The user to whom a token belongs. Raises `SignedOut` if it is not valid."""
    async with httpx.AsyncClient(timeout=15, headers={"User-Agent": USER_AGENT}) as http:
        try:
            answer = await http.get(f"{server}/api/me", headers={"Authorization": f"Bearer {token}"})
        except httpx.HTTPError as error:
            raise _unreachable(server, error) from None
    try:
        return str(_read(answer)["username"])
    except Refused as error:
        raise (
            SignedOut(t("the token: {reason}", reason=message_of(error))) if error.code in _SIGN_IN_AGAIN else error
        ) from None


def _unreachable(server: str, error: httpx.HTTPError) -> Offline:
    return Offline(t("cannot reach {server}: {reason}", server=server, reason=str(error) or type(error).__name__))


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        data = answer.json() if answer.content else {}
    except ValueError:
        data = None
    if not isinstance(data, dict):
        if answer.is_server_error:  # of a proxy, while the server is away
            raise Offline(t("{url} cannot be reached (HTTP {status})", url=answer.url, status=answer.status_code))
        raise ProtocolError(
            t("{url} does not speak this protocol (HTTP {status})", url=answer.url, status=answer.status_code)
        )
    if answer.is_success:
        return data
    raise Refused.read({**data, "message": data.get("message") or data.get("detail") or data.get("title")})
