// Made by `make docs` from the server's registry of actions and its models. Do not edit.

/** Of these fields exactly one. */
type ExactlyOne<T> = {
  [K in keyof T]: { [P in K]: T[P] } & { [P in Exclude<keyof T, K>]?: null };
}[keyof T];

/** The one argument of every acknowledgement. */
export type Answer<T> = { ok: true; data: T } | { ok: false; error: ActionError };

export interface AdminGetTopics {
  /** `next` of the page before */
  after?: string | null;
  /** Default: 100 */
  limit?: number;
}

export interface AdminGetUsers {
  /** `next` of the page before */
  after?: string | null;
  /** Default: 100 */
  limit?: number;
}

export interface AdminRoomRef {
  room_id: string;
}

export interface AdminTopic {
  room_id: string;
  topic_name: string;
  is_private: boolean;
  members: number;
  online: number;
  /** How many its log holds */
  entries: number;
  /** How many messages were sent to it */
  messages: number;
  /** ISO 8601, UTC, milliseconds */
  created_at: string;
}

export interface AdminTopics {
  topics: AdminTopic[];
  /** Give it as `after` for the next page; null: this was the last */
  next: string | null;
}

export interface AdminUser {
  username: string;
  online: boolean;
  last_seen: string | null;
  /** ISO 8601, UTC, milliseconds */
  created_at: string;
  disabled: boolean;
  admin: boolean;
}

export interface AdminUserRef {
  username: string;
}

export interface AdminUsers {
  users: AdminUser[];
  /** Give it as `after` for the next page; null: this was the last */
  next: string | null;
}

export interface Authenticate {
  token: string;
}

export interface Authenticated {
  /** ISO 8601, UTC, milliseconds */
  token_expires_at: string;
}

export interface Ban {
  username: string;
  /** ISO 8601, UTC, milliseconds */
  created_at: string;
  /** null: for ever */
  expires_at: string | null;
}

export type BanUser = SubjectInRoom & {
  /** Seconds; not given: for ever */
  duration?: number | null;
};

export interface Bans {
  bans: Ban[];
  /** Give it as `after` for the next page; null: this was the last */
  next: string | null;
}

export interface BlockUser {
  username: string;
}

export interface ChangePassword {
  /** The present one */
  password: string;
  /** 8–72 bytes in UTF-8 */
  new_password: string;
}

export interface ClearPending {
  /** Not given: the connection's own, else `default` */
  device?: string | null;
  /** Not given: of every room */
  room_id?: string | null;
}

/** Why the server closes a connection; sent in `closing` before it does. */
export type CloseReason = "slow_consumer" | "token_expired" | "token_revoked" | "shutdown" | "replaced" | "protocol_error";

/** The last event before the server closes a connection. */
export interface Closing {
  reason: CloseReason;
  reconnect: boolean;
}

/** What a client gives when it connects (Socket.IO `auth`); other fields in it are the client's own. */
export interface ConnectAuth {
  token: string;
  /**
   * This installation of the client; each gets everything
   * Default: "default"
   */
  device?: string;
  /** room_id -> seq up to which this device holds the room's log */
  cursors?: Record<string, number>;
}

export interface ConnectToRoom {
  topic_name: string;
}

/** Answer of `connect_to_room`; `roomName` is spelled as that system documents it. */
export interface ConnectedRoom {
  roomName: string;
  /** Members who are online */
  usernames: string[];
  room: Room;
}

export interface Create {
  topic_name: string;
  /** Default: false */
  is_private?: boolean;
}

export interface CreateConversation {
  /** The others. One, and no title: the direct conversation */
  usernames: string[];
  title?: string | null;
}

export type CreateInvitationLink = RoomRef & {
  /**
   * Seconds; null: never
   * Default: 604800
   */
  expires_in?: number | null;
  /** How many may come by it; null: any number */
  uses?: number | null;
};

/** Answer of `register`, `login` and `refresh`. */
export interface Credentials {
  token: string;
  /** ISO 8601, UTC, milliseconds */
  expires_at: string;
  user: Profile;
}

export interface Deactivate {
  password: string;
}

export interface Delete {
  message_id: string;
}

export interface Delivered {
  /** room_id -> seq up to which this device has received everything */
  cursors: Record<string, number>;
}

export type Direction = "sent" | "received";

export interface Echo {
  content: string;
}

export interface EchoContent {
  content: string;
}

export interface EchoEntry {
  /** `sent` by the caller, or `received` as the answer */
  direction: Direction;
  content: string;
  /** ISO 8601, UTC, milliseconds */
  created_at: string;
}

export interface EchoHistory {
  /** In order */
  entries: EchoEntry[];
  /** Give it as `before` for the page of older ones; null: there are none */
  next: string | null;
}

export interface Edit {
  message_id: string;
  content: string;
}

/** `{}`: done, nothing to tell. */
export type Empty = Record<string, never>;

/** The error object of every answer, in every gateway. */
export interface ActionError {
  code: ErrorCode;
  /** For people; may change. Programs go by `code`. */
  message: string;
  details: Record<string, unknown>;
  /** The same request may succeed later without a change. */
  retryable: boolean;
}

/** Stable codes; `http_status` is their status in REST answers (RFC 9457 problem details). */
export type ErrorCode = "invalid" | "unknown_action" | "unauthenticated" | "token_expired" | "token_revoked" | "forbidden" | "not_found" | "conflict" | "too_large" | "rate_limited" | "unavailable" | "internal";

/**
 * One record of an export; besides its `type`, it has the fields of what it is a record of.
 *
 * `session`, `device`, `cursor` (how far a device has received a room), `room` (one that the caller is in),
 * `read_marker`, `block`, `invitation_link`, `echo`, then `message` and `reaction` (put on a message, or taken off),
 * of every room that the caller ever wrote to. `end` is the last, with `lines`; `error`, if it comes instead, is an
 * [Error](#error).
 */
export interface ExportLine {
  type: "profile" | "session" | "device" | "room" | "read_marker" | "cursor" | "block" | "invitation_link" | "echo" | "message" | "reaction" | "end" | "error";
}

/** Answer of `search`. */
export interface Found {
  /** Newest first */
  messages: Message[];
  /** Message id -> its part around the match */
  snippets: Record<string, Snippet[]>;
  /** Give it as `before` for the next page; null: this was the last */
  next: string | null;
}

export type GetBans = RoomRef & {
  /** `next` of the page before */
  after?: string | null;
  /** Default: 100 */
  limit?: number;
};

export interface GetEchoHistory {
  /** `next` of the page before */
  before?: string | null;
  /** Default: 50 */
  limit?: number;
}

export type GetHistory = RoomRef & {
  /** Only messages with a smaller seq */
  before?: number | null;
  /** Only messages with a larger seq */
  after?: number | null;
  /** Default: 50 */
  limit?: number;
};

export type GetMembers = RoomRef & {
  /** `next` of the page before */
  after?: string | null;
  /** Default: 100 */
  limit?: number;
};

export interface GetPending {
  /** Not given: the connection's own, else `default` */
  device?: string | null;
  /** `next` of the page before */
  after?: string | null;
  /** Default: 100 */
  limit?: number;
}

export interface GetProfile {
  username: string;
}

export type GetReceipts = RoomRef;

export interface GetRooms {
  kind?: RoomKind | null;
  /** Only rooms that the caller is in, or only others */
  member?: boolean | null;
  /** `next` of the page before */
  after?: string | null;
  /** Default: 100 */
  limit?: number;
}

export interface History {
  /** In seq order */
  messages: Message[];
  /** More in the direction that was asked for */
  has_more: boolean;
}

export interface InvitationCode {
  code: string;
}

export interface InvitationLink {
  code: string;
  room_id: string;
  /** null: never */
  expires_at: string | null;
  /** null: any number */
  uses_left: number | null;
}

export type Invite = SubjectInRoom;

export type Kick = SubjectInRoom;

export interface Login {
  username: string;
  password: string;
}

export interface Member {
  username: string;
  role: Role;
  online: boolean;
  /** null: online, or never seen */
  last_seen: string | null;
}

export type MemberChange = "joined" | "left" | "kicked" | "banned" | "role";

/** Who came, went or changed role; without `seq` in public topics, which do not log it. */
export interface MemberChanged {
  room_id: string;
  seq?: number | null;
  username: string;
  change: MemberChange;
  /** The role after the change; null once gone */
  role: Role | null;
}

export interface Members {
  members: Member[];
  /** Give it as `after` for the next page; null: this was the last */
  next: string | null;
}

/** One message of a room's log, in its present state. */
export interface Message {
  id: string;
  room_id: string;
  topic_name: string | null;
  /** Position of the message in its room's log */
  seq: number;
  sender: string;
  /** Empty when `deleted` */
  content: string;
  /** ISO 8601, UTC, milliseconds */
  created_at: string;
  edited_at: string | null;
  deleted: boolean;
  /** What the sender gave; goes to the sender only */
  client_id: string | null;
  /** `id` of the message this one answers */
  reply_to: string | null;
  /** emoji -> usernames */
  reactions: Record<string, string[]>;
  /** Usernames of mentioned members */
  mentions: string[];
}

/** `seq` is the position of the change; `message` is the message as it is now. */
export interface MessageChanged {
  room_id: string;
  seq: number;
  message: Message;
}

export type Mute = SubjectInRoom & {
  /**
   * Seconds; 0: may speak again at once
   * Default: 3600
   */
  duration?: number;
};

/** Nothing, `null` or `{}`. */
export type NoPayload = Record<string, never>;

export interface Pending {
  /** Only rooms of which something is pending */
  rooms: PendingRoom[];
  /** Give it as `after` for the next page; null: this was the last */
  next: string | null;
}

export interface PendingRoom {
  room_id: string;
  topic_name: string | null;
  /** seq up to which the device has received the room's log */
  cursor: number;
  last_seq: number;
  /** Entries that the device still misses */
  pending: number;
}

export interface Presence {
  username: string;
  online: boolean;
  last_seen: string | null;
}

export interface Profile {
  username: string;
  online: boolean;
  last_seen: string | null;
  /** ISO 8601, UTC, milliseconds */
  created_at: string;
}

export interface React {
  message_id: string;
  /** An emoji, or a short name of one; no whitespace or control characters */
  emoji: string;
  /** Default: false */
  remove?: boolean;
}

export type Read = RoomRef & {
  seq: number;
};

/** What the device missed has been replayed; from here on events are live. */
export interface Ready {
  username: string;
  device: string;
  /** Entries sent from the log before this event */
  replayed: number;
  /** Rooms whose cursor the log does not know or no longer reaches: ask `history` */
  reset: string[];
  /** ISO 8601, UTC, milliseconds */
  token_expires_at: string;
}

/** How far a member has received and read a room. */
export interface Receipt {
  room_id: string;
  username: string;
  /** How far their furthest device has received; at first, where they joined */
  delivered_seq: number;
  /** How far they have read; who writes has read up to there */
  read_seq: number;
}

export interface Receipts {
  /** By username; none in rooms of more than 50 members */
  receipts: Receipt[];
}

export interface Register {
  username: string;
  /** 8–72 bytes in UTF-8 */
  password: string;
}

export interface RevokeSession {
  session_id: string;
}

export type Role = "owner" | "moderator" | "member";

/** A room as the caller sees it: `role`, `read_seq` and `unread` are the caller's own. */
export interface Room {
  room_id: string;
  kind: RoomKind;
  topic_name: string | null;
  /** A group's title; in a direct conversation the other's username */
  title: string | null;
  is_private: boolean;
  /** null: not a member */
  role: Role | null;
  members: number;
  /** Members connected to the node that answers, the caller too: up to 2 in a direct conversation */
  online: number;
  /** seq of the newest entry; 0 in an empty room */
  last_seq: number;
  /** How far the caller has read; 0 if not a member */
  read_seq: number;
  /** Messages after `read_seq` */
  unread: number;
  last_message: Message | null;
}

export interface RoomAdded {
  room: Room;
}

/** A group has another title. */
export interface RoomChanged {
  room_id: string;
  seq: number;
  /** Who changed it */
  username: string;
  title: string;
}

export type RoomKind = "topic" | "direct" | "group";

/** A room reference: exactly one of the three. */
export type RoomRef = ExactlyOne<{
  room_id: string;
  /** A topic; or, if no topic has that name, the user of that name */
  topic_name: string;
  /** The direct conversation with that user */
  username: string;
}>;

export interface RoomRemoved {
  room_id: string;
  /** left, kicked, banned, deleted, or gone (noticed at a reconnect) */
  reason: string;
}

export interface Rooms {
  rooms: Room[];
  /** Give it as `after` for the next page; null: this was the last */
  next: string | null;
}

export interface Search {
  /** Words, all of which are in the message; `"a phrase"`; `begin*` */
  query: string;
  /** Only in this room */
  room_id?: string | null;
  /** Only in this topic */
  topic_name?: string | null;
  /** Only in the direct conversation with that user */
  username?: string | null;
  /** `next` of the page before */
  before?: string | null;
  /** Default: 20 */
  limit?: number;
}

export type SendMessage = RoomRef & {
  content: string;
  client_id?: string | null;
  /** `id` of a message in the same room */
  reply_to?: string | null;
};

/** One login of the caller. */
export interface Session {
  session_id: string;
  /** ISO 8601, UTC, milliseconds */
  created_at: string;
  /** ISO 8601, UTC, milliseconds */
  expires_at: string;
  /** The one that asks */
  current: boolean;
  /** What the client called itself when it signed in */
  user_agent: string | null;
}

export interface Sessions {
  /** Newest first; those that are still good */
  sessions: Session[];
}

export type SetRole = SubjectInRoom & {
  /** `owner` hands the room over: who was the owner is a moderator then */
  role: Role;
};

export type SetTitle = RoomRef & {
  title: string;
};

export interface Snippet {
  text: string;
  /** Whether it is what was searched for */
  match: boolean;
}

/** A room and a user it is about: here `username` is that user, so the room is one of the other two. */
export type SubjectInRoom = ExactlyOne<{
  room_id: string;
  topic_name: string;
}> & {
  username: string;
};

export interface Subscribe {
  topic_name: string;
}

export type Typing = RoomRef & {
  /** Default: true */
  typing?: boolean;
};

export interface TypingNow {
  room_id: string;
  username: string;
  typing: boolean;
}

export type Unban = SubjectInRoom;

export interface Unread {
  unread: number;
}

export type Unsubscribe = RoomRef;

export interface Usernames {
  usernames: string[];
}

/** Every action: what it takes, and what it answers. */
export interface Actions {
  /** Make an account and sign it in. */
  register: { request: Register; response: Credentials };
  /** Sign in by password: a token of a new session. */
  login: { request: Login; response: Credentials };
  /** A fresh token of the same session. */
  refresh: { request: NoPayload; response: Credentials };
  /** The caller's own profile. */
  me: { request: NoPayload; response: Profile };
  /** A user's profile. */
  get_profile: { request: GetProfile; response: Profile };
  /** Bring a fresh token on a live connection, which else would close when its token expires. */
  authenticate: { request: Authenticate; response: Authenticated };
  /** Withdraw the session: its tokens are void, its connections close. */
  logout: { request: NoPayload; response: Empty };
  /** Take another password; every other session of the caller is withdrawn. */
  change_password: { request: ChangePassword; response: Empty };
  /** Close one's account: nobody can sign in to it, until an administrator enables it. What was sent stays. */
  deactivate: { request: Deactivate; response: Empty };
  /** The caller's sessions that are still good, newest first. */
  get_sessions: { request: NoPayload; response: Sessions };
  /** Withdraw one of the caller's sessions: its tokens are void, its connections close. */
  revoke_session: { request: RevokeSession; response: Empty };
  /** Take no direct messages and no invitations from a user, and hide one's presence from them. */
  block: { request: BlockUser; response: Empty };
  /** Take a block back. */
  unblock: { request: BlockUser; response: Empty };
  /** Whom the caller has blocked. */
  get_blocks: { request: NoPayload; response: Usernames };
  /** All users, by username. */
  admin_get_users: { request: AdminGetUsers; response: AdminUsers };
  /** Withdraw a user's sessions and let them in no more. */
  admin_disable_user: { request: AdminUserRef; response: Empty };
  /** Let a disabled user sign in again. */
  admin_enable_user: { request: AdminUserRef; response: Empty };
  /** All topics, private ones too, with the size of their logs; in the order in which they were made. */
  admin_get_topics: { request: AdminGetTopics; response: AdminTopics };
  /** Delete a topic with its log; its members are told, and its name is free. */
  admin_delete_topic: { request: AdminRoomRef; response: Empty };
  /** What is said comes back; both are kept in the caller's echo log before it is answered. */
  echo: { request: EchoContent; response: Echo };
  /** A page of the caller's echo log: the newest entries, or those before a page. */
  echo_history: { request: GetEchoHistory; response: EchoHistory };
  /** All that is kept of the caller, as JSON lines: one record each, told apart by `type`, always in the same order. */
  export: { request: NoPayload; response: ExportLine };
  /** Send a message to a topic, a conversation or a user; answered when it is durable. */
  message: { request: SendMessage; response: Message };
  /** Replace the content of one's own message; whom it mentions is found anew. */
  edit: { request: Edit; response: Message };
  /** Delete one's own message, or as a moderator anybody's: its content is gone, a tombstone stays in its place. */
  delete: { request: Delete; response: Empty };
  /** Put an emoji on a message, or take one's own off. Each is there once, however often it is put. */
  react: { request: React; response: Message };
  /** A page of a room's messages: the newest, those before a seq, or those after one. */
  history: { request: GetHistory; response: History };
  /** Tell the others in a room that the caller is typing, or no longer is. Ends by itself after 6 s. */
  typing: { request: Typing; response: Empty };
  /** Move this device's cursors: it has received each of these rooms up to that seq. */
  delivered: { request: Delivered; response: Empty };
  /** Move the caller's read marker of a room, forwards only; answers with what is left unread. */
  read: { request: Read; response: Unread };
  /** Remove a member, who may come back. */
  kick: { request: Kick; response: Empty };
  /** Remove a user and do not let them come back, by whichever way; also one who is not a member. */
  ban: { request: BanUser; response: Empty };
  /** Let a banned user come back. */
  unban: { request: Unban; response: Empty };
  /** Who is banned from a room that the caller moderates, by username. */
  get_bans: { request: GetBans; response: Bans };
  /** Let a member not send, edit, react or type for a while; leaving and coming back does not end it. */
  mute: { request: Mute; response: Empty };
  /** Give a member another role, not above one's own. An owner may hand the room over, and moderates it then. */
  set_role: { request: SetRole; response: Empty };
  /** What a device of the caller still misses, by room, in the order in which the rooms were made. */
  get_pending: { request: GetPending; response: Pending };
  /** Let a device of the caller miss what is pending for it, in all rooms or in one: its cursors move to the heads. */
  clear_pending: { request: ClearPending; response: Empty };
  /** Make a topic, public or private; the caller is its owner. */
  create: { request: Create; response: Room };
  /** Become a member of a public topic. */
  subscribe: { request: Subscribe; response: Room };
  /** Become a member of a public topic. */
  suscribe: { request: Subscribe; response: Room };
  /** Leave a topic or a group. An owner's place goes to the longest-standing moderator, else member. */
  unsubscribe: { request: Unsubscribe; response: Empty };
  /** Make another user a member of a private topic or a group that the caller is in; at once. */
  invite: { request: Invite; response: Room };
  /** Begin a conversation. With one other and no title it is direct, of which there is one for each two users. */
  create_conversation: { request: CreateConversation; response: Room };
  /** Give a group another title. */
  set_title: { request: SetTitle; response: Room };
  /** Make a code by which whoever has it may become a member of a private topic or a group. */
  create_invitation_link: { request: CreateInvitationLink; response: InvitationLink };
  /** Become a member by an invitation link. */
  join_by_link: { request: InvitationCode; response: Room };
  /** Make an invitation link void; any member may who may invite. */
  delete_invitation_link: { request: InvitationCode; response: Empty };
  /** All rooms that the caller may see: their own, and public topics. In the order in which they were made. */
  get_rooms: { request: GetRooms; response: Rooms };
  /** Enter a topic, becoming a member if need be; answers with the members who are online. */
  connect_to_room: { request: ConnectToRoom; response: ConnectedRoom };
  /** The members of a room that the caller is in, by username. */
  get_members: { request: GetMembers; response: Members };
  /** How far the other members of a room that the caller is in have received and read it. */
  get_receipts: { request: GetReceipts; response: Receipts };
  /** The messages in which all the words are: of the caller's rooms, or of one of them; newest first. */
  search: { request: Search; response: Found };
}

/** Every event, and what it carries. */
export interface Events {
  ready: Ready;
  message: Message;
  message_edited: MessageChanged;
  message_deleted: MessageChanged;
  reaction: MessageChanged;
  member: MemberChanged;
  room_added: RoomAdded;
  room_removed: RoomRemoved;
  room_changed: RoomChanged;
  typing: TypingNow;
  presence: Presence;
  receipt: Receipt;
  closing: Closing;
}

/** For `Socket<ServerToClientEvents, ClientToServerEvents>` of socket.io-client. */
export interface ServerToClientEvents {
  ready: (event: Ready) => void;
  message: (event: Message) => void;
  message_edited: (event: MessageChanged) => void;
  message_deleted: (event: MessageChanged) => void;
  reaction: (event: MessageChanged) => void;
  member: (event: MemberChanged) => void;
  room_added: (event: RoomAdded) => void;
  room_removed: (event: RoomRemoved) => void;
  room_changed: (event: RoomChanged) => void;
  typing: (event: TypingNow) => void;
  presence: (event: Presence) => void;
  receipt: (event: Receipt) => void;
  closing: (event: Closing) => void;
}

/** The actions of a live connection; each is acknowledged. */
export interface ClientToServerEvents {
  /** A user's profile. */
  get_profile: (request: GetProfile, answer: (answer: Answer<Profile>) => void) => void;
  /** Bring a fresh token on a live connection, which else would close when its token expires. */
  authenticate: (request: Authenticate, answer: (answer: Answer<Authenticated>) => void) => void;
  /** Withdraw the session: its tokens are void, its connections close. */
  logout: (request: NoPayload, answer: (answer: Answer<Empty>) => void) => void;
  /** Take another password; every other session of the caller is withdrawn. */
  change_password: (request: ChangePassword, answer: (answer: Answer<Empty>) => void) => void;
  /** Close one's account: nobody can sign in to it, until an administrator enables it. What was sent stays. */
  deactivate: (request: Deactivate, answer: (answer: Answer<Empty>) => void) => void;
  /** The caller's sessions that are still good, newest first. */
  get_sessions: (request: NoPayload, answer: (answer: Answer<Sessions>) => void) => void;
  /** Withdraw one of the caller's sessions: its tokens are void, its connections close. */
  revoke_session: (request: RevokeSession, answer: (answer: Answer<Empty>) => void) => void;
  /** Take no direct messages and no invitations from a user, and hide one's presence from them. */
  block: (request: BlockUser, answer: (answer: Answer<Empty>) => void) => void;
  /** Take a block back. */
  unblock: (request: BlockUser, answer: (answer: Answer<Empty>) => void) => void;
  /** Whom the caller has blocked. */
  get_blocks: (request: NoPayload, answer: (answer: Answer<Usernames>) => void) => void;
  /** What is said comes back; both are kept in the caller's echo log before it is answered. */
  echo: (request: EchoContent, answer: (answer: Answer<Echo>) => void) => void;
  /** A page of the caller's echo log: the newest entries, or those before a page. */
  echo_history: (request: GetEchoHistory, answer: (answer: Answer<EchoHistory>) => void) => void;
  /** Send a message to a topic, a conversation or a user; answered when it is durable. */
  message: (request: SendMessage, answer: (answer: Answer<Message>) => void) => void;
  /** Replace the content of one's own message; whom it mentions is found anew. */
  edit: (request: Edit, answer: (answer: Answer<Message>) => void) => void;
  /** Delete one's own message, or as a moderator anybody's: its content is gone, a tombstone stays in its place. */
  delete: (request: Delete, answer: (answer: Answer<Empty>) => void) => void;
  /** Put an emoji on a message, or take one's own off. Each is there once, however often it is put. */
  react: (request: React, answer: (answer: Answer<Message>) => void) => void;
  /** A page of a room's messages: the newest, those before a seq, or those after one. */
  history: (request: GetHistory, answer: (answer: Answer<History>) => void) => void;
  /** Tell the others in a room that the caller is typing, or no longer is. Ends by itself after 6 s. */
  typing: (request: Typing, answer: (answer: Answer<Empty>) => void) => void;
  /** Move this device's cursors: it has received each of these rooms up to that seq. */
  delivered: (request: Delivered, answer: (answer: Answer<Empty>) => void) => void;
  /** Move the caller's read marker of a room, forwards only; answers with what is left unread. */
  read: (request: Read, answer: (answer: Answer<Unread>) => void) => void;
  /** Remove a member, who may come back. */
  kick: (request: Kick, answer: (answer: Answer<Empty>) => void) => void;
  /** Remove a user and do not let them come back, by whichever way; also one who is not a member. */
  ban: (request: BanUser, answer: (answer: Answer<Empty>) => void) => void;
  /** Let a banned user come back. */
  unban: (request: Unban, answer: (answer: Answer<Empty>) => void) => void;
  /** Who is banned from a room that the caller moderates, by username. */
  get_bans: (request: GetBans, answer: (answer: Answer<Bans>) => void) => void;
  /** Let a member not send, edit, react or type for a while; leaving and coming back does not end it. */
  mute: (request: Mute, answer: (answer: Answer<Empty>) => void) => void;
  /** Give a member another role, not above one's own. An owner may hand the room over, and moderates it then. */
  set_role: (request: SetRole, answer: (answer: Answer<Empty>) => void) => void;
  /** What a device of the caller still misses, by room, in the order in which the rooms were made. */
  get_pending: (request: GetPending, answer: (answer: Answer<Pending>) => void) => void;
  /** Let a device of the caller miss what is pending for it, in all rooms or in one: its cursors move to the heads. */
  clear_pending: (request: ClearPending, answer: (answer: Answer<Empty>) => void) => void;
  /** Make a topic, public or private; the caller is its owner. */
  create: (request: Create, answer: (answer: Answer<Room>) => void) => void;
  /** Become a member of a public topic. */
  subscribe: (request: Subscribe, answer: (answer: Answer<Room>) => void) => void;
  /** Become a member of a public topic. */
  suscribe: (request: Subscribe, answer: (answer: Answer<Room>) => void) => void;
  /** Leave a topic or a group. An owner's place goes to the longest-standing moderator, else member. */
  unsubscribe: (request: Unsubscribe, answer: (answer: Answer<Empty>) => void) => void;
  /** Make another user a member of a private topic or a group that the caller is in; at once. */
  invite: (request: Invite, answer: (answer: Answer<Room>) => void) => void;
  /** Begin a conversation. With one other and no title it is direct, of which there is one for each two users. */
  create_conversation: (request: CreateConversation, answer: (answer: Answer<Room>) => void) => void;
  /** Give a group another title. */
  set_title: (request: SetTitle, answer: (answer: Answer<Room>) => void) => void;
  /** Make a code by which whoever has it may become a member of a private topic or a group. */
  create_invitation_link: (request: CreateInvitationLink, answer: (answer: Answer<InvitationLink>) => void) => void;
  /** Become a member by an invitation link. */
  join_by_link: (request: InvitationCode, answer: (answer: Answer<Room>) => void) => void;
  /** Make an invitation link void; any member may who may invite. */
  delete_invitation_link: (request: InvitationCode, answer: (answer: Answer<Empty>) => void) => void;
  /** All rooms that the caller may see: their own, and public topics. In the order in which they were made. */
  get_rooms: (request: GetRooms, answer: (answer: Answer<Rooms>) => void) => void;
  /** Enter a topic, becoming a member if need be; answers with the members who are online. */
  connect_to_room: (request: ConnectToRoom, answer: (answer: Answer<ConnectedRoom>) => void) => void;
  /** The members of a room that the caller is in, by username. */
  get_members: (request: GetMembers, answer: (answer: Answer<Members>) => void) => void;
  /** How far the other members of a room that the caller is in have received and read it. */
  get_receipts: (request: GetReceipts, answer: (answer: Answer<Receipts>) => void) => void;
  /** The messages in which all the words are: of the caller's rooms, or of one of them; newest first. */
  search: (request: Search, answer: (answer: Answer<Found>) => void) => void;
}
