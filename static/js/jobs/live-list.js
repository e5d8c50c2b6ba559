// Keeps one page of the list of jobs up to date. The server's stream only says which jobs changed; this requests them.

import { followChanges } from '../api/changes.js';
import { api } from '../api/client.js';
import { Poller } from '../api/poller.js';
import { setAnswered, setConnection } from '../ui/connection.js';

/** Least milliseconds between two requests for changed rows, and for the whole page. */
const ROWS_INTERVAL = 1000;
const PAGE_INTERVAL = 4000;
/** What `GET /v1/summaries` accepts. */
const MAX_IDS = 100;

export class LiveList {
  /** @type {Set<string>} */
  #changed = new Set();
  #has;

  /**
   * @param {object} options
   * @param {() => RequestParameters} options.parameters of the request for the page
   * @param {(id: string) => boolean} options.has whether a job is on the page
   * @param {(page: Schemas['Summaries']) => void} options.onPage
   * @param {(jobs: Schemas['JobSummary'][]) => boolean} options.onRows answers whether the jobs still belong where they
   *   are
   * @param {(error: Error) => void} options.onError
   * @param {AbortSignal} options.signal
   */
  constructor({ parameters, has, onPage, onRows, onError, signal }) {
    this.#has = has;
    const failed = (/** @type {Error} */ error) => {
      setAnswered(false);
      onError(error);
    };
    this.page = new Poller({
      interval: PAGE_INTERVAL, onError: failed, signal,
      request: async (stop) => {
        const page = await api.summaries(parameters(), stop);
        this.#changed.clear();
        setAnswered(true);
        onPage(page);
      },
    });
    this.rows = new Poller({
      interval: ROWS_INTERVAL, signal,
      onError: (error) => {
        // The changes of the failed request are found in the whole page.
        this.page.soon();
        failed(error);
      },
      request: async (stop) => {
        const ids = [...this.#changed].slice(0, MAX_IDS);
        ids.forEach((id) => this.#changed.delete(id));
        if (ids.length === 0) return;
        const { data } = await api.summaries({ id: ids, limit: MAX_IDS, column: parameters().column }, stop);
        setAnswered(true);
        if (data.length < ids.length || !onRows(data)) this.page.soon();
        if (this.#changed.size > 0) this.rows.soon();
      },
    });
    this.page.now();
    followChanges({ onChange: (ids) => this.#note(ids), onState: setConnection, signal });
  }

  /** @param {string[] | null} ids null if any job may have changed */
  #note(ids) {
    for (const id of ids ?? []) if (this.#has(id)) this.#changed.add(id);
    if (this.#changed.size > 0) this.rows.soon();
    if (!ids || ids.some((id) => !this.#has(id))) this.page.soon();
  }

  /** Requests the page at once, because the query changed or the user did something. */
  refresh() {
    return this.page.now();
  }
}
