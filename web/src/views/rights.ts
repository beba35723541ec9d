/** The contract's permissions, so that the page offers no action that would be refused. */
import type { Role, Room } from "../contract.gen.ts";

const RANK: Record<Role, number> = { member: 1, moderator: 2, owner: 3 };

export function moderates(role: Role | null): boolean {
  return role === "owner" || role === "moderator";
}

/** Whether the user may write: where only moderators do, they must be one. */
export function mayWrite(room: Room | undefined): boolean {
  return room === undefined || room.posting !== "moderators" || moderates(room.role);
}

/** Whether the user may add others. A direct conversation has exactly two members. */
export function mayInvite(room: Room): boolean {
  return room.role !== null && room.kind !== "direct";
}

/** Whether there are invitation links: whoever has the link of a public topic may join it anyway. */
export function mayMakeLinks(room: Room): boolean {
  return mayInvite(room) && room.is_private;
}

/** Whether the user may kick, ban, mute or promote a member, who must have a lower role. */
export function mayActOn(room: Room, role: Role): boolean {
  return room.kind !== "direct" && moderates(room.role) && room.role !== null && RANK[role] < RANK[room.role];
}
