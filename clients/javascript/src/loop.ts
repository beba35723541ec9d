import type { Store } from "./store.ts";

export interface LoopOptions {
  readonly store: Store;
  /** The lock of the store under which it works: one tab at a time does. */
  readonly lock: string;
  isOnline(): boolean;
  /** Do all that is to do. Resolves to false if it has to be done later, as `rest` says or when there is a connection. */
  round(): Promise<boolean>;
}

const FIRST_WAIT = 250;
const LONGEST_WAIT = 10_000;

/** Work that goes on whenever it is woken and there is a connection. */
export class Loop {
  private readonly options: LoopOptions;
  private isClosed = false;
  private running: Promise<void> | null = null;
  /** What runs under the lock, which another tab may hold for long. */
  private working: Promise<void> | undefined;
  private again = false;
  /** Nothing is done before this time, whatever calls `wake` (ms of `performance.now()`). */
  private notBefore = 0;
  private wait = FIRST_WAIT;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: LoopOptions) {
    this.options = options;
  }

  /** Whether a round may go on. */
  get goesOn(): boolean {
    return !this.isClosed && this.options.isOnline();
  }

  /** There is a connection, or more to do. */
  wake(): void {
    if (!this.goesOn) return;
    const rest = this.notBefore - performance.now();
    if (rest > 0) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.wake(), rest);
      return;
    }
    this.again = true;
    this.running ??= this.options.store
      .lock(this.options.lock, () => {
        this.working = this.run();
        return this.working;
      })
      .catch(() => this.rest(null)) // the store failed: everything is still there
      .finally(() => {
        this.running = null;
        if (this.again) this.wake();
      });
  }

  /** Do nothing for a while: for the seconds that the server named, or a growing time. */
  rest(seconds: number | null): void {
    this.notBefore = performance.now() + (seconds === null ? this.wait : seconds * 1000);
    this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
    this.again = true;
  }

  /** The server has answered: the next rest is a short one. */
  succeeded(): void {
    this.wait = FIRST_WAIT;
  }

  async close(): Promise<void> {
    this.isClosed = true;
    clearTimeout(this.timer);
    await this.working?.catch(() => undefined);
  }

  private async run(): Promise<void> {
    while (this.again && this.goesOn) {
      this.again = false;
      if (!(await this.options.round())) return;
    }
  }
}
