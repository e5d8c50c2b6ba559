// Keeps a part of the list of jobs up to date: the server says which jobs change, and this asks again for what is shown.

import { api, paths } from './api.js';
import { setConnection } from './connection.js';
import { follow } from './stream.js';

/** Least time between two looks at the rows, at the page as a whole, and at either while the tab is hidden. */
const ROWS_EVERY = 1000;
const PAGE_EVERY = 4000;
const HIDDEN_EVERY = 15_000;
/** What changes together is asked for together. */
const AT_ONCE = 150;
/** What the server takes at a time. */
const MOST_IDS = 100;

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

export class LiveList {
  #changed = new Set();

  /**
   * `request()` says what to ask for; `has(id)` whether a job is shown. `onPage(answer)` gets the page; `onRows(jobs)`
   * what has become of jobs of it, and answers whether they still belong there; `onError(error)` why nothing came.
   */
  constructor({ request, has, onPage, onRows, onError, signal }) {
    this.has = has;
    this.page = new Paced(PAGE_EVERY, async (stop) => {
      const answer = await api.summaries(request(), stop);
      this.#changed.clear();
      onPage(answer);
    }, onError, signal);
    this.rows = new Paced(ROWS_EVERY, async (stop) => {
      const ids = [...this.#changed].slice(0, MOST_IDS);
      ids.forEach((id) => this.#changed.delete(id));
      if (ids.length === 0) return;
      const { data } = await api.summaries({ id: ids, limit: MOST_IDS }, stop);
      if (data.length < ids.length || !onRows(data)) this.page.soon();
      if (this.#changed.size > 0) this.rows.soon();
    }, onError, signal);
    document.addEventListener('visibilitychange', () => [this.page, this.rows].forEach((paced) => paced.again()), { signal });
    this.page.now();
    follow(paths.changes, { on: { changed: ({ ids }) => this.#note(ids) }, onState: setConnection, signal });
  }

  #note(ids) {
    for (const id of ids ?? []) if (this.has(id)) this.#changed.add(id);
    if (this.#changed.size > 0) this.rows.soon();
    if (!ids || ids.some((id) => !this.has(id))) this.page.soon();
  }

  /** Asks for the page at once: what is wanted has changed, or a user did something. */
  refresh() {
    return this.page.now();
  }
}
