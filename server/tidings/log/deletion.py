"""Deletes accounts: what they wrote, their memberships, and everything that says who they were.

The request only disables the account and marks it. The rest may be long and may be interrupted: it is done in small
steps that may be repeated, on any node, until the last one takes the mark away. What others hold learns of it as of
anything else, by `message_deleted`, `reaction` and `member`. What holds:

* nobody can sign in to the account, or write as it, from the moment of the answer;
* the name becomes free with the last step. What is kept then stands under a name that says nothing;
* words of others stay theirs: the text of a message that mentions the name.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import orjson

from tidings.auth.principal import NO_SESSION, Principal
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.permissions import GRANTED, KeyScope
from tidings.log.journal import Journal
from tidings.log.memberships import Leave
from tidings.log.messages import ChangeReaction, DeleteMessage
from tidings.log.retention import RETENTION_S
from tidings.log.transaction import Operation
from tidings.supervision import Periodic
from tidings_db.engine import Database, Write
from tidings_db.queries import deletion, export, log
from tidings_db.queries.deletion import Deletion
from tidings_db.queries.export import Written
from tidings_db.queries.rows import chunked, entry_bytes

logger = logging.getLogger("tidings.deletion")

STEP = 500
"""The most cursors that one transaction removes, and entries that it changes."""


class Deletions(Periodic):
    def __init__(self, database: Database, journal: Journal, interval_s: float = RETENTION_S) -> None:
        super().__init__(interval_s, logger, "an account could not be deleted")
        self._db = database
        self._journal = journal

    async def start(self) -> None:
        """Begin with those that an earlier run of the server left."""
        await super().start()
        self.hurry()

    async def _round(self) -> None:
        await self.run_once()

    async def run_once(self) -> None:
        """Delete all accounts that are marked."""
        for account in await self._db.read(deletion.under_way):
            await self._delete(account)

    async def _delete(self, account: Deletion) -> None:
        # A user who has left a room may not write there, and yet what they wrote goes.
        rights = GRANTED[KeyScope.PUBLISH] | GRANTED[KeyScope.READ]
        user = Principal(account.user_key, account.username, NO_SESSION, "", 0, granted=rights)
        after: tuple[int, int] | None = (0, 0)
        while after is not None:
            written, after = await self._db.read(partial(export.written, user_key=account.user_key, after=after))
            for entry in written:
                if self._stopping.is_set():
                    return
                await self._take_back(user, entry, not account.keeps_messages)
        for room_key in await self._db.read(partial(deletion.rooms_to_leave, user_key=account.user_key)):
            if self._stopping.is_set():
                return
            await self._try(Leave(user, room_key))
        drop = partial(deletion.drop_cursors, user_key=account.user_key, limit=STEP)
        while await self._db.write(drop, Write.LAZY) == STEP:
            pass
        await self._rename(account.username, account.new_name)
        end = partial(deletion.end, user_key=account.user_key, new_name=account.new_name)
        if await self._db.write(end):
            logger.info("the account with the key %d is deleted", account.user_key)

    async def _take_back(self, user: Principal, entry: Written, messages: bool) -> None:
        """Delete a message, if messages go, or remove a reaction."""
        if entry.kind == "message":
            if messages and not entry.deleted:
                await self._try(DeleteMessage(user, entry.room_key, entry.seq, len(entry.content or "")))
            return
        body = orjson.loads(entry.body or "{}")
        if entry.kind != "reaction" or body.get("remove"):
            return
        target = await self._db.read(partial(log.message_of_member, user_key=None, message_id=body["id"]))
        if target is not None:
            change = ChangeReaction(user, target.room_key, target.seq, entry_bytes(target), body["emoji"], True)
            await self._try(change)

    async def _rename(self, username: str, new_name: str) -> None:
        """Put the new name wherever the log names the user."""
        after: tuple[int, int] | None = (0, 0)
        while after is not None:
            named, after = await self._db.read(partial(deletion.naming, username=username, after=after))
            for step in chunked(named, STEP):
                rename = partial(deletion.rename, named=step, username=username, new_name=new_name)
                await self._db.write(rename, Write.LAZY)

    async def _try(self, operation: Operation[Any]) -> None:
        try:
            await self._journal.write(operation)
        except ActionError as error:
            if error.code not in (ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN):
                raise  # else another node has done it, or it went with its room
