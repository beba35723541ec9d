import { createContext, useContext } from "react";
import { useStore } from "zustand";
import type { Client, View } from "./client.ts";
import type { RoomState } from "./store.ts";

export const ClientContext = createContext<Client | null>(null);

export function useClient(): Client {
  const client = useContext(ClientContext);
  if (client === null) throw new Error("nobody is signed in");
  return client;
}

/** A part of the view state. The component renders again when it changes, so the selector must not return new objects. */
export function useView<T>(selector: (view: View) => T): T {
  return useStore(useClient().view, selector);
}

export function useRoom(room_id: string): RoomState | undefined {
  return useView((view) => view.state.rooms.get(room_id));
}
