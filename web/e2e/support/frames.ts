/** How smoothly a page draws: by the frames that it asked for and got, and by the work that it had with them. */
import type { CDPSession, Locator, Page } from "playwright-core";

/** px/s: a page of history in less than a second */
const SPEED = 4800;

/** The frames of a time. */
export class Frames {
  /** ms between one frame and the next */
  private readonly gaps: readonly number[];
  /** ms that the page's main thread worked for a frame, on average. What else the machine does hardly changes it. */
  readonly work: number;

  constructor(gaps: readonly number[], worked: number) {
    this.gaps = [...gaps].sort((one, other) => one - other);
    this.work = worked / gaps.length;
  }

  get perSecond(): number {
    const sum = this.gaps.reduce((total, gap) => total + gap, 0);
    return (1000 * this.gaps.length) / sum;
  }

  /** ms; `of` 0.99: 99 % of the frames came at least so quickly */
  within(of: number): number {
    return this.gaps[Math.min(this.gaps.length - 1, Math.floor(this.gaps.length * of))] ?? 0;
  }

  toString(): string {
    const [half, most, all] = [0.5, 0.99, 1].map((of) => this.within(of).toFixed(1));
    return `${this.perSecond.toFixed(1)} frames a second; between two frames ${half} ms (median), ${most} (99 %), ${all} (longest); ${this.work.toFixed(1)} ms of work for a frame`;
  }
}

/** Measure the frames of a page while something happens. */
export async function framesWhile(page: Page, work: () => Promise<void>): Promise<Frames> {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  const recording = await page.evaluateHandle(() => {
    const recorded = { gaps: [] as number[], over: false };
    let last = performance.now();
    const frame = (now: number) => {
      recorded.gaps.push(now - last);
      last = now;
      if (!recorded.over) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    return recorded;
  });
  const before = await worked(session);
  await work();
  const after = await worked(session);
  const gaps = await recording.evaluate((recorded) => {
    recorded.over = true;
    return recorded.gaps;
  });
  await session.detach();
  return new Frames(gaps.slice(1), after - before);
}

/** ms of the processor that the page's main thread has taken */
async function worked(session: CDPSession): Promise<number> {
  const { metrics } = await session.send("Performance.getMetrics");
  return 1000 * (metrics.find(({ name }) => name === "TaskDuration")?.value ?? Number.NaN);
}

/** Scroll up for a time (s) with the wheel, as the browser does it by itself: nothing of it runs in the page. */
export async function scrollUp(log: Locator, seconds: number): Promise<void> {
  const page = log.page();
  const box = await log.boundingBox();
  if (box === null) throw new Error("it is not on the screen");
  const session = await page.context().newCDPSession(page);
  await session.send("Input.synthesizeScrollGesture", {
    x: box.x + box.width / 2,
    y: box.y + box.height / 2,
    yDistance: SPEED * seconds,
    speed: SPEED,
    gestureSourceType: "mouse",
  });
  await session.detach();
}

/** Scroll up through so many screens, a part of one with each frame; the texts that were seen, from top to bottom. */
export function scrolledUp(log: Locator, screens: number): Promise<string[]> {
  return log.evaluate(async (scroller, screens) => {
    const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
    const shown = () => {
      const { top, bottom } = scroller.getBoundingClientRect();
      return [...scroller.querySelectorAll<HTMLElement>("article")]
        .filter((article) => {
          const place = article.getBoundingClientRect();
          // Until the list knows its height, a row is hidden and may lie over others.
          return place.bottom > top && place.top < bottom && getComputedStyle(article).visibility !== "hidden";
        })
        .map((article) => ({ key: article.dataset.key, text: article.textContent ?? "" }));
    };
    let seen = shown();
    const step = scroller.clientHeight / 8;
    for (let steps = 0; steps < screens * 8; ) {
      const before = scroller.scrollTop;
      scroller.scrollTop -= step;
      await frame();
      if (scroller.scrollTop !== before) steps++; // else it is at the top, and a page on its way
      const now = shown();
      // By its key: what is said of a message changes when the one before it comes, which may be of the same sender.
      const overlap = now.findIndex(({ key }) => key === seen[0]?.key);
      if (overlap < 0)
        throw new Error(`it jumped from "${seen[0]?.text}" to "${now[0]?.text}" … "${now.at(-1)?.text}"`);
      seen = [...now.slice(0, overlap), ...seen];
    }
    return seen.map(({ text }) => text);
  }, screens);
}
