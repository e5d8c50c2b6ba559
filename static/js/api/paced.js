// What is asked again and again, by one request at a time: an answer that was overtaken never counts.

/** Least time between two looks while the tab is hidden. */
const HIDDEN_EVERY = 15_000;
/** What changes together is asked for together. */
const AT_ONCE = 150;

/** Asks something again and again, never twice at once and not more often than it should. */
export class Paced {
  #last = -Infinity;
  #timer = null;
  #asking = null;
  #isWanted = false;

  /** `ask(signal)` asks; an `Error` of it goes to `onError`, and it is asked again. */
  constructor(every, ask, onError, signal) {
    Object.assign(this, { every, ask, onError, signal });
    signal.addEventListener('abort', () => clearTimeout(this.#timer));
  }

  /** When its time has come. */
  soon() {
    this.#isWanted = true;
    if (this.#asking || this.signal.aborted) return;
    clearTimeout(this.#timer);
    const due = this.#last + (document.hidden ? HIDDEN_EVERY : this.every);
    this.#timer = setTimeout(() => this.now(), Math.max(due - performance.now(), AT_ONCE));
  }

  /** At once, and instead of what is on its way, which is out of date. */
  async now() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    this.#isWanted = false;
    this.#last = performance.now();
    try {
      await this.ask(AbortSignal.any([asking.signal, this.signal]));
    } catch (error) {
      if (asking.signal.aborted || this.signal.aborted) return;
      this.onError(error);
      this.#isWanted = true;
    }
    if (this.#asking !== asking) return;
    this.#asking = null;
    if (this.#isWanted) this.soon();
  }

  /** The tab may have been hidden until now. */
  again() {
    if (this.#isWanted) this.soon();
  }
}
