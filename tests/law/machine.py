"""Every action of the core, by any user, in any order, with a check of the law after each."""

from __future__ import annotations

from typing import Any

from hypothesis.stateful import initialize

from tests.law.attempts import AttemptRules
from tests.law.messages import MessageRules
from tests.law.moderation import ModerationRules
from tests.law.reading import ReadingRules
from tests.law.rooms import RoomRules
from tests.law.sessions import SessionRules
from tests.law.steps import DEVICES, TOPICS, USERS


class Law(SessionRules, RoomRules, ModerationRules, MessageRules, ReadingRules, AttemptRules):
    @initialize()
    def begin(self) -> None:
        """Create a public and a private topic with members, and connect all devices except one."""
        self.run(self._connect())
        ana, ben = 0, len(DEVICES)
        self.create(ana, TOPICS[0], False)
        self.create(ben, TOPICS[1], True)
        self.join(ben, TOPICS[0], "subscribe")
        self.invite(ben, ("topic_name", 1), USERS[0])
        self.create_conversation(ben, [USERS[0], USERS[2]], None)
        self.message(ben, ("topic_name", 0), None, None, None, None)

    async def _connect(self) -> None:
        await self.world.populate([self.name(user) for user in USERS], DEVICES)
        self.model = self.world.model
        for device in self.world.devices[:-1]:
            await device.connect("anew")
        await self.world.check()


STREAMS = (
    *("open_stream", "append", "finish", "write", "stop", "fall_silent", "search", "history", "cut"),
    *("connect", "disconnect", "be_away", "moderate", "block", "unsubscribe", "join", "edit", "delete", "react"),
)


class LawOfStreams(Law):
    """The actions on messages that stream, and those that change who may write them, or who reads them."""

    @classmethod
    def rules(cls) -> Any:
        return [each for each in super().rules() if each.function.__name__ in STREAMS]
