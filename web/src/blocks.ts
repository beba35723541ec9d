/** The users that this user has blocked, as of the last answer: the server sends no event when that changes. */
import type { ActionName } from "@tidings/client";
import type { Actions } from "./contract.gen.ts";

export interface BlocksOptions {
  /** Request an action. Raises a `TidingsError`. */
  ask<A extends ActionName>(action: A, request: Actions[A]["request"]): Promise<Actions[A]["response"]>;
  changed(usernames: ReadonlySet<string>): void;
}

/** Every method raises a `TidingsError`. */
export class Blocks {
  private readonly options: BlocksOptions;

  constructor(options: BlocksOptions) {
    this.options = options;
  }

  async load(): Promise<void> {
    const { usernames } = await this.options.ask("get_blocks", {});
    this.options.changed(new Set(usernames));
  }

  async block(username: string): Promise<void> {
    await this.options.ask("block", { username });
    await this.load();
  }

  async unblock(username: string): Promise<void> {
    await this.options.ask("unblock", { username });
    await this.load();
  }
}
