/** A dialog of the sidebar. */
export type Opened = "topic" | "conversation" | "find" | "link" | "settings" | "read all" | "sign out";
