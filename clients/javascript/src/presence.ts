/** Who is in a room, and who of them is online. */
import type { Client } from "./client.ts";
import type { Member } from "./types.ts";

export class Presence {
  private readonly client: Client<never>;
  private readonly room_id: string;
  private readonly listeners = new Set<() => void>();
  private readonly changes = new Map<string, Partial<Member>>();
  private current: readonly Member[] = [];
  private stop: (() => void) | null = null;

  constructor(client: Client<never>, room_id: string) {
    this.client = client;
    this.room_id = room_id;
  }

  /** The members, sorted by name. Immutable: a change makes another list. Nobody is online without a connection. */
  get members(): readonly Member[] {
    return this.current;
  }

  /** Call `changed` after changes; the first subscription loads the members. Returns a function that stops it. */
  subscribe(changed: () => void): () => void {
    this.listeners.add(changed);
    this.stop ??= this.start();
    return () => {
      this.listeners.delete(changed);
      if (this.listeners.size > 0) return;
      this.stop?.();
      this.stop = null;
    };
  }

  private start(): () => void {
    const { client } = this;
    const stops = [
      client.on("presence", ({ username, online, last_seen }) => this.change(username, { online, last_seen })),
      client.on("profile", ({ username, ...shown }) => this.change(username, shown)),
      client.on("member", ({ room_id }) => {
        if (room_id === this.room_id) this.load();
      }),
      client.onStatus(({ is }) => {
        if (is === "online") this.load();
        else this.show(this.current.map((member) => (member.online ? { ...member, online: false } : member)));
      }),
    ];
    if (client.status.is === "online") this.load();
    return () => {
      for (const stop of stops) stop();
    };
  }

  /** Ask for the members. What changes meanwhile is newer than the answer. */
  private load(): void {
    this.changes.clear();
    const load = async () => {
      const members: Member[] = [];
      let after: string | null = null;
      do {
        const page: { members: Member[]; next: string | null } = await this.client.ask("get_members", {
          room_id: this.room_id,
          limit: 500,
          ...(after === null ? {} : { after }),
        });
        members.push(...page.members);
        after = page.next;
      } while (after !== null);
      this.show(members.map((member) => ({ ...member, ...this.changes.get(member.username) })));
    };
    load().catch(() => undefined); // the next connection asks again
  }

  private change(username: string, change: Partial<Member>): void {
    this.changes.set(username, { ...this.changes.get(username), ...change });
    if (this.current.some((member) => member.username === username))
      this.show(this.current.map((member) => (member.username === username ? { ...member, ...change } : member)));
  }

  private show(members: readonly Member[]): void {
    this.current = members;
    for (const listener of this.listeners) listener();
  }
}
