// Server-sent events, with the true state of the connection.
//
// The browser reconnects with Last-Event-ID for as long as it can reach the server. When it gives up (after an error
// status), this opens a new stream with the last id as `after`. Keep-alive comments are invisible to a page, so after a
// silence it asks the server whether it is still there.

import { api } from './client.js';

/** All in milliseconds. */
const SILENCE = 20_000;
const PROBE_TIMEOUT = 5_000;
const FIRST_RETRY = 1_000;
const MAX_RETRY = 15_000;

/**
 * @typedef {object} StreamOptions
 * @property {string} [after] id of the last event that is known
 * @property {Record<string, (data: any) => void>} on what to do with the events of each name
 * @property {(state: 'connecting' | 'live' | 'lost' | 'ended') => void} onState
 * @property {() => boolean} [isOver] whether the server closes the stream for good
 * @property {AbortSignal} signal
 */

/**
 * Follows a stream until `signal` aborts or `stop` is called.
 * @param {string} path
 * @param {StreamOptions} options
 */
export function follow(path, options) {
  const stream = new Stream(path, options);
  return { stop: () => stream.stop() };
}

class Stream {
  /** @type {EventSource | null} */
  #source = null;
  #path;
  #options;
  #lastId;
  #lastHeard = Date.now();
  #retry = FIRST_RETRY;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #stopped = new AbortController();

  /**
   * @param {string} path
   * @param {StreamOptions} options
   */
  constructor(path, options) {
    this.#path = path;
    this.#options = options;
    this.#lastId = options.after;
    const { signal } = this.#stopped;
    const watch = setInterval(() => {
      if (this.#isOpen && Date.now() - this.#lastHeard > SILENCE) this.#probe();
    }, SILENCE / 4);
    signal.addEventListener('abort', () => clearInterval(watch));
    const wake = () => {
      if (!document.hidden && this.#isOpen) this.#probe();
    };
    document.addEventListener('visibilitychange', wake, { signal });
    window.addEventListener('online', wake, { signal });
    window.addEventListener('offline', wake, { signal });
    options.signal.addEventListener('abort', () => this.stop());
    options.onState('connecting');
    this.#open();
  }

  get #isOpen() {
    return this.#source?.readyState === EventSource.OPEN;
  }

  #open() {
    if (this.#stopped.signal.aborted) return;
    this.#source?.close();
    const after = this.#lastId ? `?after=${encodeURIComponent(this.#lastId)}` : '';
    const source = new EventSource(`${this.#path}${after}`);
    this.#source = source;
    source.addEventListener('open', () => {
      this.#heard();
      this.#retry = FIRST_RETRY;
      this.#options.onState('live');
    });
    source.addEventListener('error', () => {
      if (source === this.#source) this.#broken(source);
    });
    for (const [name, handle] of Object.entries(this.#options.on)) {
      source.addEventListener(name, (message) => {
        this.#heard();
        if (message.lastEventId) this.#lastId = message.lastEventId;
        handle(JSON.parse(message.data));
      });
    }
  }

  #heard() {
    this.#lastHeard = Date.now();
  }

  /** @param {EventSource} source */
  #broken(source) {
    if (this.#stopped.signal.aborted) return;
    if (this.#options.isOver?.()) {
      this.stop();
      this.#options.onState('ended');
      return;
    }
    this.#options.onState('lost');
    if (source.readyState === EventSource.CLOSED) this.#openLater();
  }

  #openLater() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), this.#retry * (0.75 + Math.random() / 2));
    this.#retry = Math.min(this.#retry * 2, MAX_RETRY);
  }

  async #probe() {
    try {
      await api.alive(AbortSignal.timeout(PROBE_TIMEOUT));
      this.#heard();
    } catch {
      if (this.#stopped.signal.aborted) return;
      this.#source?.close();
      this.#options.onState('lost');
      this.#openLater();
    }
  }

  stop() {
    this.#stopped.abort();
    clearTimeout(this.#timer);
    this.#source?.close();
  }
}
