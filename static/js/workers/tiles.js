// Figures of the whole system.

import { h, setText } from '../ui/dom.js';
import { bytes, duration, isNumber, rate, whole } from '../ui/format.js';

/** @import { Maybe } from '../ui/format.js' */

/** The groups and their figures never change, so nothing moves. */
export class Tiles {
  /** @type {Map<string, HTMLElement>} */
  #values = new Map();

  constructor() {
    this.element = h('div', { class: 'system' },
      this.#group('Queue', ['Ready', 'Without a worker', 'Longest wait', 'Waiting for a teacher', 'Waiting to be retried', 'Paused']),
      this.#group('Running', ['Jobs held', 'Images per second', 'Workers busy']),
      this.#group('Last 24 hours', ['Attempts started', 'Succeeded', 'Failed', 'Median wait', '95th percentile wait']),
      this.#group('Storage', ['Students and reports', 'Resume states', 'Uploaded checkpoints', 'Uploaded data sets', 'Database', 'Free']));
  }

  /**
   * @param {string} title
   * @param {string[]} names
   */
  #group(title, names) {
    return h('section', { class: 'card', 'aria-label': title }, h('h2', {}, title), h('dl', { class: 'figures' }, names.map((name) => {
      const value = h('dd', {}, '–');
      this.#values.set(name, value);
      return h('div', {}, h('dt', {}, name), value);
    })));
  }

  /**
   * @param {string} name
   * @param {string} text
   * @param {string} [title]
   */
  #set(name, text, title = '') {
    const value = this.#values.get(name);
    if (!value) return;
    setText(value, text);
    value.title = title;
  }

  /**
   * @param {Schemas['System']} system
   * @param {Schemas['Worker'][]} workers
   */
  show({ queue, last_day: day, storage }, workers) {
    this.#showQueue(queue, workers);
    this.#showDay(day);
    this.#showStorage(storage);
  }

  /**
   * @param {Schemas['System']['queue']} queue
   * @param {Schemas['Worker'][]} workers
   */
  #showQueue(queue, workers) {
    this.#set('Ready', whole(queue.ready), 'Queued jobs that a running worker can take, now or when it is free');
    this.#set('Without a worker', whole(queue.without_worker), 'Queued jobs that no running worker can take: the list says why');
    this.#set('Longest wait', duration(queue.longest_wait_seconds));
    this.#set('Waiting for a teacher', whole(queue.waiting_for_teacher), 'Jobs whose teacher is still being trained');
    this.#set('Waiting to be retried', whole(queue.backing_off), 'Jobs whose last attempt failed');
    this.#set('Paused', whole(queue.paused));
    this.#set('Jobs held', whole(queue.held));
    this.#set('Images per second', queue.held ? rate(queue.images_per_second).replace(' images/s', '') : '–');
    const online = workers.filter((worker) => worker.online);
    this.#set('Workers busy', `${online.filter(({ job }) => job).length} of ${online.length}`);
  }

  /** @param {Schemas['System']['last_day']} day */
  #showDay({ begun, ended, median_wait_seconds: median, p95_wait_seconds: p95 }) {
    const failures = Object.entries(ended).filter(([outcome]) => !['succeeded', 'stopped'].includes(outcome));
    this.#set('Attempts started', whole(begun));
    this.#set('Succeeded', whole(ended.succeeded ?? 0));
    this.#set('Failed', whole(failures.reduce((sum, [, count]) => sum + count, 0)), failures.map(([outcome, count]) => `${outcome}: ${count}`).join(', '));
    this.#set('Median wait', wait(median));
    this.#set('95th percentile wait', wait(p95));
  }

  /** @param {Schemas['System']['storage']} storage */
  #showStorage(storage) {
    const { checkpoints_limit_bytes: limit, free_bytes: free } = storage;
    this.#set('Students and reports', bytes(storage.artifacts_bytes), `${whole(storage.artifacts)} files`);
    this.#set('Resume states', bytes(storage.states_bytes), `States from which ${whole(storage.states)} unfinished jobs can resume`);
    const together = isNumber(limit) ? `, together with others at most ${bytes(limit)}` : '';
    this.#set('Uploaded checkpoints', bytes(storage.checkpoints_bytes), `${whole(storage.checkpoints)} uploads${together}`);
    this.#set('Uploaded data sets', bytes(storage.datasets_bytes), `${whole(storage.datasets)} versions${together}`);
    this.#set('Database', bytes(storage.database_bytes));
    this.#set('Free', bytes(free), isNumber(free) ? 'On the disk with the files' : 'Object storage does not report its free space.');
  }
}

/**
 * Short waits keep decimals: 0.034 s is not "0 s".
 * @param {Maybe} seconds
 */
function wait(seconds) {
  return isNumber(seconds) && seconds < 10 ? `${seconds.toFixed(seconds < 1 ? 3 : 1)} s` : duration(seconds);
}
