/** A dialog of the sidebar. */
export type Opened = "topic" | "conversation" | "find" | "link" | "profile" | "settings" | "sign out";
