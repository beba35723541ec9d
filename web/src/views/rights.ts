/** What the contract allows to whom, so that nothing is offered that would be refused. */
import type { Role, Room } from "../contract.gen.ts";

const RANK: Record<Role, number> = { member: 1, moderator: 2, owner: 3 };

export function moderates(role: Role | null): boolean {
  return role === "owner" || role === "moderator";
}

/** Whether somebody may be brought in: anybody comes to a public topic, and nobody to a direct conversation. */
export function mayInvite(room: Room): boolean {
  return room.role !== null && (room.kind === "group" || (room.kind === "topic" && room.is_private));
}

/** Whether one may kick, ban, mute or promote somebody: one acts only on who stands below oneself. */
export function mayActOn(room: Room, role: Role): boolean {
  return room.kind !== "direct" && moderates(room.role) && room.role !== null && RANK[role] < RANK[room.role];
}
