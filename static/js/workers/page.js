// Workers, the queue and storage, requested every few seconds: no stream reports them.

import { api } from '../api/client.js';
import { Poller } from '../api/poller.js';
import { setConnection } from '../ui/connection.js';
import { fill, h, setText } from '../ui/dom.js';
import { Tiles } from './tiles.js';
import { WorkersTable } from './table.js';

const INTERVAL = 5000;
/** What `GET /v1/summaries` accepts. */
const MAX_IDS = 100;

/** @param {PageContext} context */
export function workersPage({ root, signal, setTitle }) {
  const table = new WorkersTable();
  const tiles = new Tiles();
  const note = h('p', { class: 'note', role: 'status' }, 'Loading…');
  fill(root, h('h1', {}, 'Workers and system'), tiles.element, table.element, note);

  const poller = new Poller({
    interval: INTERVAL, signal,
    request: async (stop) => {
      const [{ data: workers }, system] = await Promise.all([api.workers(stop), api.system(stop)]);
      const ids = workers.flatMap(({ job }) => job ?? []).slice(0, MAX_IDS);
      const jobs = ids.length ? (await api.summaries({ id: ids, limit: MAX_IDS }, stop)).data : [];
      table.show(workers, new Map(jobs.map((job) => [job.id, job])));
      tiles.show(system, workers);
      const online = workers.filter((worker) => worker.online);
      setText(note, online.length ? '' : 'No worker is running, so queued jobs wait. Start one with “distillery worker”.');
      setTitle(online.length ? `${online.filter(({ job }) => job).length} of ${online.length} busy · Workers` : 'Workers');
      setConnection('live');
      poller.soon();
    },
    onError: (error) => {
      setText(note, error.message);
      setConnection('lost');
    },
  });
  poller.now();
}
