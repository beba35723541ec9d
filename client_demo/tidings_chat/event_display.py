"""Prints what the server pushes: messages, changes, and who comes and goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from tidings.contract.events import (
    MemberChanged,
    MessageAppend,
    MessageChanged,
    Presence,
    ProfileChanged,
    Ready,
    RoomAdded,
    RoomChanged,
    RoomEntry,
    RoomRemoved,
    ThreadChanged,
    TypingNow,
)
from tidings.contract.models import (
    ApplicationEvent,
    Message,
    Notify,
    Posting,
    Receipt,
    Room,
    RoomKind,
    View,
    timestamp,
)
from tidings_chat import render
from tidings_chat.attachments import summary
from tidings_chat.colours import ALERT, BAD
from tidings_chat.errors import message_of, why_offline
from tidings_chat.i18n import m, t
from tidings_chat.message_cache import MessageCache
from tidings_chat.navigation import Navigation
from tidings_chat.rooms import Rooms, title
from tidings_chat.roster import Roster
from tidings_chat.screen import Screen
from tidings_chat.shortcuts import RoomKeys
from tidings_client import Refused, Unsent

_BELL_EVERY: Final = 1.0


class EventDisplay:
    def __init__(
        self,
        me: str,
        rooms: Rooms,
        screen: Screen,
        navigation: Navigation,
        messages: MessageCache,
        roster: Roster,
        keys: RoomKeys,
        read: Callable[[str, int], None],
        *,
        bell: bool,
    ) -> None:
        """`read`: called with each room and seq that the user has seen."""
        self.offline_reason = m("connecting…")
        """Empty while connected."""
        self._me = me
        self._rooms = rooms
        self._read = read
        self._screen = screen
        self._navigation = navigation
        self._messages = messages
        self._roster = roster
        self._keys = keys
        self._bell = bell
        self.quiet_until: str | None = None
        """The end of the user's do-not-disturb; timestamps of the wire compare as texts."""
        self._rang_at = 0.0
        self._day = ""
        self._greeted = False

    def show(self, name: str, event: View) -> None:
        match event:
            case Message() as message:
                self._show_message(message)
            case MessageAppend() as piece:
                self._show_append(piece)
            case MessageChanged() as change:
                self._show_change(name, change)
            case MemberChanged() as change:
                self._show_member(change)
            case RoomChanged() as change if change.title is not None:
                self._show_title(change)
            case RoomChanged() as change if change.posting is not None:
                self._show_posting(change)
            case RoomChanged() as change if "picture" in change.model_fields_set:
                self._show_picture(change)
            case RoomChanged() as change:
                self._show_purpose(change)
            case ApplicationEvent() as published:
                self._show_published(published)
            case RoomEntry() as entry:
                self._show_entry(entry)
            case RoomAdded(room=room):
                self._show_added(room)
            case RoomRemoved() as removed:
                self._show_removed(removed)
            case Ready() as ready:
                self._show_ready(ready)
            case TypingNow() as typing:
                self._roster.set_typing(typing)
            case Receipt() as receipt:
                self._roster.set_receipt(receipt)
            case Presence() as presence:
                self._show_presence(presence)
            case ProfileChanged() as profile:
                self._show_profile(profile)
            case ThreadChanged() as thread:
                self._show_thread(thread)
            case View():
                pass
        self._screen.redraw()

    def show_page(self, messages: Iterable[Message]) -> None:
        """Print a page of the open room's history."""
        for message in messages:
            self._print_message(self._messages.add(message), in_open_room=True)

    def show_offline(self, reason: str) -> None:
        reason = why_offline(reason)
        if not self.offline_reason and self._greeted:
            self._screen.print(render.note(t("{reason}: trying again", reason=reason), ALERT))
        self.offline_reason = reason
        self._roster.clear_typing()
        self._screen.redraw()

    def show_refused(self, unsent: Unsent, error: Refused) -> None:
        self._screen.print(
            render.note(t("not sent: {content} — {reason}", content=summary(unsent), reason=message_of(error)), BAD)
        )

    def _show_message(self, message: Message) -> None:
        self._messages.add(message)
        if message.state == "streaming":
            if self._belongs_here(message.room_id):
                self._screen.print(
                    render.note(
                        f"{message.seq:>3} "
                        + t("{user} is writing: /stop {number}", user=message.sender, number=message.seq)
                    )
                )
        else:
            self._print_new(message)
        self._roster.sent(message)
        if self._navigation.is_open(message.room_id):
            self._read(message.room_id, message.seq)

    def _print_new(self, message: Message) -> None:
        self._print_message(message)
        if message.sender != self._me:
            self._ring_for(message)

    def _show_append(self, piece: MessageAppend) -> None:
        """Show who is writing; the text is printed once, when it is finished."""
        message = self._messages.find(piece.room_id, piece.message_id)
        if message is not None:
            self._roster.set_typing(TypingNow(room_id=piece.room_id, username=message.sender, typing=True))

    def _belongs_here(self, room_id: str) -> bool:
        """Whether the events of a room are printed: those of the open room; if none is open, those of all rooms."""
        return self._navigation.current is None or self._navigation.is_open(room_id)

    def _is_personal(self, message: Message) -> bool:
        """Whether it is a direct message, or mentions the user. It is printed in every room."""
        room = self._rooms.get(message.room_id)
        return (room is not None and room.kind is RoomKind.DIRECT) or self._me in message.mentions

    def _print_message(self, message: Message, *, in_open_room: bool = False) -> None:
        if not (in_open_room or self._belongs_here(message.room_id) or self._is_personal(message)):
            return
        day = render.day(message.created_at)
        if day != self._day:
            self._day = day
            self._screen.print(render.heading(day))
        is_here = in_open_room or self._navigation.is_open(message.room_id)
        room = "" if is_here else self._rooms.title(message.room_id)
        about = message.reply_to or message.thread
        replied = self._messages.find(message.room_id, about) if about else None
        is_between = not (in_open_room or self._belongs_here(message.room_id))
        self._screen.print(render.message(message, self._me, room, replied, brief=is_between))

    def _ring_for(self, message: Message) -> None:
        """Ring for a message, as the user has chosen, at most once a second."""
        now = time.monotonic()
        if self._bell and self._may_ring(message) and now - self._rang_at > _BELL_EVERY:
            self._rang_at = now
            self._screen.bell()

    def _may_ring(self, message: Message) -> bool:
        now = timestamp(time.time_ns() // 1_000_000)
        if (self.quiet_until or "") > now:
            return False
        room = self._rooms.get(message.room_id)
        if room is None or room.preferences is None:
            return self._is_personal(message)
        quiet_until, notify = room.preferences.quiet_until, room.preferences.notify
        if (quiet_until or "") > now:
            return False
        return notify is Notify.ALL or (notify is Notify.MENTIONS and self._me in message.mentions)

    def _show_change(self, name: str, change: MessageChanged) -> None:
        """Print a change, unless the message was already shown like this: a replay has messages as they are now."""
        before = self._messages.change(change)
        if name == "message_finished":
            if before is None or before.state == "streaming":
                self._print_new(change.message)
        elif before != change.message and (self._belongs_here(change.room_id) or self._is_personal(change.message)):
            room = "" if self._navigation.is_open(change.room_id) else self._rooms.title(change.room_id)
            self._screen.print(render.changed(name, before, change.message, self._me, room))

    def _show_member(self, change: MemberChanged) -> None:
        is_me = change.username == self._me
        if self._navigation.is_open(change.room_id):
            self._navigation.refresh_members(change.room_id)
        if change.role is None:
            self._roster.remove_receipt(change.room_id, change.username)
        if not is_me or change.role is not None:
            self._roster.names.add(change.username)
            if is_me or self._belongs_here(change.room_id):
                self._screen.print(render.member(change, self._rooms.title(change.room_id), is_me=is_me))

    def _show_title(self, change: RoomChanged) -> None:
        if self._belongs_here(change.room_id):
            told = (
                m("{user} named this group {title}")
                if self._navigation.is_open(change.room_id)
                else m("{user} named a group of yours {title}")
            )
            self._screen.print(render.note(t(told, user=change.username, title=change.title)))
        self._navigation.rename(change.room_id)

    def _show_posting(self, change: RoomChanged) -> None:
        if self._belongs_here(change.room_id):
            told = (
                m("only moderators write to {room} now")
                if change.posting is Posting.MODERATORS
                else m("all members may write to {room} now")
            )
            self._screen.print(render.note(t(told, room=self._rooms.title(change.room_id))))

    def _show_purpose(self, change: RoomChanged) -> None:
        if self._belongs_here(change.room_id):
            told = m("{room} is for: {purpose}") if change.purpose else m("{room} has no purpose now")
            room = self._rooms.title(change.room_id)
            self._screen.print(render.note(t(told, room=room, purpose=change.purpose)))

    def _show_picture(self, change: RoomChanged) -> None:
        if self._belongs_here(change.room_id):
            told = (
                m("{user} changed the picture of {room}")
                if change.picture
                else m("{user} removed the picture of {room}")
            )
            self._screen.print(render.note(t(told, user=change.username, room=self._rooms.title(change.room_id))))

    def _show_published(self, published: ApplicationEvent) -> None:
        if self._belongs_here(published.room_id):
            room = "" if self._navigation.is_open(published.room_id) else self._rooms.title(published.room_id)
            self._screen.print(render.published(published, room))

    def _show_entry(self, entry: RoomEntry) -> None:
        """Print an entry that has no text of its own, in the words of the contract."""
        if self._belongs_here(entry.room_id):
            self._screen.print(render.entry(entry, self._rooms.title(entry.room_id)))

    def _show_added(self, room: Room) -> None:
        if self._navigation.begins(room):
            self._navigation.open(room)
        elif (
            self._greeted
            and room.kind is not RoomKind.DIRECT
            and not self._navigation.is_open(room.room_id)
            and not self._navigation.is_joining(room)
        ):
            name = room.topic_name or room.title or room.room_id
            self._screen.print(render.note(t("you are in {room} now: /open {name}", room=title(room), name=name)))

    def _show_removed(self, removed: RoomRemoved) -> None:
        if self._rooms.get(removed.room_id) is not None:
            name = self._rooms.title(removed.room_id)
            self._screen.print(
                render.note(t("you are no longer in {room}: {reason}", room=name, reason=t(removed.reason)))
            )
        if self._navigation.is_open(removed.room_id):
            self._navigation.close()

    def _show_presence(self, presence: Presence) -> None:
        self._roster.set_online(presence.username, presence.online)
        current = self._navigation.current
        if current and current.title == f"@{presence.username}":
            self._screen.print(
                render.note(
                    t("{user} is online", user=presence.username)
                    if presence.online
                    else t("{user} is offline", user=presence.username)
                )
            )

    def _show_thread(self, thread: ThreadChanged) -> None:
        """Say that there is something new in a thread of another room; in the open one, its replies are printed."""
        began = thread.message
        if thread.unread and not self._belongs_here(began.room_id):
            told = t(
                "{count} new in thread {number} of {room}: /threads",
                count=thread.unread,
                number=began.seq,
                room=self._rooms.title(began.room_id),
            )
            self._screen.print(render.note(told))

    def _show_profile(self, profile: ProfileChanged) -> None:
        if profile.username == self._me:
            self.quiet_until = profile.do_not_disturb_until
        current = self._navigation.current
        if current and current.title == f"@{profile.username}":
            self._screen.print(
                render.note(profile.username + (render.shown(profile) or f"  {t('has no status now')}"))
            )

    def show_reset(self, room_id: str) -> None:
        self._messages.forget(room_id)
        self._screen.print(
            render.note(t("the history of {room} has changed: /history", room=self._rooms.title(room_id)))
        )

    def _show_ready(self, ready: Ready) -> None:
        self.offline_reason = ""
        if ready.replayed:
            self._screen.print(render.note(t("↑ {count} while you were away", count=ready.replayed)))
        if self._greeted:
            self._screen.print(render.note(t("connected again")))
            return
        self._greeted = True
        self._keys.assign(self._rooms)
        self._screen.print(
            render.rooms(self._rooms, self._keys.key),
            render.note(t("/help lists the commands, Tab completes.")),
        )
        self._navigation.open_last()
