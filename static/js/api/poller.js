// Repeats a request: one at a time, no more often than allowed, and without using an answer that a newer request
// overtook.

import { isRefusal } from './client.js';

/** Milliseconds between two requests while the tab is hidden. */
const HIDDEN_INTERVAL = 30_000;
/** Milliseconds to wait for further changes before asking about the first. */
const BATCH_DELAY = 150;

export class Poller {
  /** When the last request began; before the first, long enough ago. */
  #last;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {AbortController | null} */
  #pending = null;
  #isWanted = false;
  #isStopped = false;

  /**
   * @param {object} options
   * @param {number} options.interval least time between two requests, in milliseconds
   * @param {(signal: AbortSignal) => Promise<void>} options.request is repeated after it has thrown, unless the server
   *   refused it
   * @param {(error: Error) => void} options.onError
   * @param {AbortSignal} options.signal
   */
  constructor({ interval, request, onError, signal }) {
    this.interval = interval;
    this.#last = performance.now() - interval;
    this.request = request;
    this.onError = onError;
    this.signal = signal;
    document.addEventListener('visibilitychange', () => { if (this.#isWanted) this.soon(); }, { signal });
    signal.addEventListener('abort', () => clearTimeout(this.#timer));
  }

  /** Requests as soon as the interval allows. */
  soon() {
    this.#isWanted = true;
    if (this.#pending || this.#isStopped || this.signal.aborted) return;
    clearTimeout(this.#timer);
    const due = this.#last + (document.hidden ? HIDDEN_INTERVAL : this.interval);
    this.#timer = setTimeout(() => this.now(), Math.max(due - performance.now(), BATCH_DELAY));
  }

  /** Never requests again. */
  stop() {
    this.#isStopped = true;
    clearTimeout(this.#timer);
  }

  /** Requests at once; a request under way is out of date and is aborted. */
  async now() {
    clearTimeout(this.#timer);
    this.#pending?.abort();
    const pending = new AbortController();
    this.#pending = pending;
    this.#isWanted = false;
    this.#last = performance.now();
    try {
      await this.request(AbortSignal.any([pending.signal, this.signal]));
    } catch (error) {
      if (pending.signal.aborted || this.signal.aborted) return;
      this.onError(error);
      if (!isRefusal(error)) this.#isWanted = true;
    }
    if (this.#pending !== pending) return;
    this.#pending = null;
    if (this.#isWanted) this.soon();
  }
}
