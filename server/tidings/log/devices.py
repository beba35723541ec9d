"""Changes of a user's devices: operations of the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tidings.contract.errors import not_found
from tidings.log.transaction import Operation, Work
from tidings_db.queries import quotas, undelivered, users
from tidings_db.queries.users import DeviceRow


@dataclass(frozen=True, slots=True)
class NameDevice(Operation[DeviceRow]):
    """Name a device of the actor for the first time."""

    vital: ClassVar[bool] = True

    name: str
    connected: frozenset[int] = frozenset()
    """Devices of the actor that are connected to this node: none of them is dropped for the new one."""

    def apply(self, work: Work) -> DeviceRow:
        work.save()
        if work.quotas.devices:
            quotas.make_room_for_device(work.conn, self.actor.user_key, work.quotas.devices, self.connected)
        return users.add_device(work.conn, self.actor.user_key, self.name, work.now)


@dataclass(frozen=True, slots=True)
class SkipPending(Operation[None]):
    """Move the cursors of a device of the actor to the heads: of one room, or of all that they are in."""

    device_key: int

    def apply(self, work: Work) -> None:
        if self.room_key is not None:
            standing = work.standings.get((self.room_key, self.actor.user_key))
            if standing is None or standing.role is None:
                raise not_found()
        work.save()
        undelivered.clear(work.conn, self.actor.user_key, self.device_key, self.room_key)
