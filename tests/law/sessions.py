"""Rules of connections and sessions."""

from __future__ import annotations

import asyncio

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.law.model import Refusal
from tests.law.steps import Steps, index, step
from tests.law.world import Device


class SessionRules(Steps):
    @precondition(lambda self: len(self.world.connected) < len(self.world.devices))
    @rule(actor_index=index, mode=st.sampled_from(["cursors", "state", "anew", "astray"]))
    def connect(self, actor_index: int, mode: str) -> None:
        away = [device for device in self.world.devices if device.client is None]
        self.run(away[actor_index % len(away)].connect(mode))
        self.everything = True

    @step(actor_index=index)
    async def disconnect(self, actor_index: int) -> None:
        await self.device(actor_index).close()

    @step(actor_index=index, token=st.sampled_from(["same", "new", "another's", "none", "log out"]))
    async def change_session(self, actor_index: int, token: str) -> None:
        """`authenticate`, `logout`."""
        device = self.device(actor_index)
        if token == "log out":
            await self._logout(device)
            return
        other = next(each for each in self.world.devices if each.username != device.username)
        new_token = {"same": device.token, "another's": other.token, "none": "nonsense"}.get(token)
        if new_token is None:
            new_token = device.token = await self.world.sign("in", device.username)

        def verdict() -> None:
            if token in ("another's", "none"):
                raise Refusal("forbidden" if token == "another's" else "unauthenticated")

        before = self.states()
        if await self.ask(device, "authenticate", {"token": new_token}, verdict) is not None:
            device.live.token = new_token
        self.unchanged = before

    async def _logout(self, device: Device) -> None:
        """Log out: all connections of the session close, and no other."""
        token = device.live.token
        closing = [each for each in self.world.connected if each.live.token == token]
        await self.ask(device, "logout", {}, lambda: None)
        for closed in closing:
            async with asyncio.timeout(30):
                await closed.live.closed.wait()
            assert closed.live.of("closing") == [{"reason": "token_revoked", "reconnect": False}]
            await closed.close()
        for each in self.world.devices:
            if each.token == token:
                each.token = await self.world.sign("in", each.username)
