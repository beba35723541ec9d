/** The folded sections of the list of rooms: kept by the server for all of the user's devices, with a copy on this one. */
import { type ActionName, TidingsError } from "@tidings/client";
import type { Account, Actions } from "./contract.gen.ts";

export interface FoldedOptions {
  /** Request an action. Raises a `TidingsError`. */
  ask<A extends ActionName>(action: A, request: Actions[A]["request"]): Promise<Actions[A]["response"]>;
  /** The user's account. Raises a `TidingsError`. */
  account(): Promise<Account>;
  changed(sections: ReadonlySet<string>): void;
}

interface Copy {
  readonly sections: readonly string[];
  /** Whether the server has them */
  readonly saved: boolean;
}

const COPY = "tidings.folded";

export class Folded {
  private readonly options: FoldedOptions;
  private copy = stored();

  constructor(options: FoldedOptions) {
    this.options = options;
  }

  get sections(): ReadonlySet<string> {
    return new Set(this.copy.sections);
  }

  /** Show these, and save them now or with the next connection. */
  async set(sections: Iterable<string>): Promise<void> {
    this.keep({ sections: [...sections], saved: false });
    await this.save().catch(ifNotAnswered);
  }

  /** The user has these, by another device. */
  changedElsewhere(sections: readonly string[]): void {
    if (this.copy.saved) this.keep({ sections, saved: true });
  }

  /** Bring this device and the server together. Raises a `TidingsError`. */
  async load(): Promise<void> {
    if (this.copy.saved) this.changedElsewhere((await this.options.account()).folded);
    else await this.save();
  }

  /** Delete the copy on this device. */
  forget(): void {
    localStorage.removeItem(COPY);
  }

  private async save(): Promise<void> {
    const { sections } = this.copy;
    await this.options.ask("set_profile", { folded: [...sections] });
    if (this.copy.sections === sections) this.keep({ sections, saved: true });
  }

  private keep(copy: Copy): void {
    this.copy = copy;
    localStorage.setItem(COPY, JSON.stringify(copy));
    this.options.changed(this.sections);
  }
}

function ifNotAnswered(error: unknown): void {
  if (!(error instanceof TidingsError)) throw error;
}

function stored(): Copy {
  try {
    const kept: Copy | string[] = JSON.parse(localStorage.getItem(COPY) ?? "[]");
    // An earlier version kept them on this device only.
    return "sections" in kept ? kept : { sections: kept, saved: kept.length === 0 };
  } catch {
    return { sections: [], saved: true };
  }
}
