// Keeps a part of the list of jobs up to date: the server says which jobs change, and this asks again for what is shown.

import { api, paths } from '../api/client.js';
import { setConnection } from '../ui/connection.js';
import { Paced } from '../api/paced.js';
import { follow } from '../api/stream.js';

/** Least time between two looks at the rows, and at the page as a whole. */
const ROWS_EVERY = 1000;
const PAGE_EVERY = 4000;
/** What the server takes at a time. */
const MOST_IDS = 100;

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
