// Which jobs change, as the server's stream says. All tabs share one connection, in a SharedWorker; a browser without
// these opens one for each tab that is visible.

import { Hub } from './hub.js';

/** @import { HubState, Word } from './hub.js' */

/** Milliseconds between two signs of life to the worker. */
const INTERVAL = 20_000;
/** Signs of life without an answer after which the worker counts as gone. */
const MAX_UNANSWERED = 2;
/** Another number makes tabs with another version of this file start a worker of their own. */
const WORKER_NAME = 'changes-1';

/**
 * @typedef {object} Follower
 * @property {(ids: string[] | null) => void} onChange null if any job may have changed
 * @property {(state: HubState) => void} onState
 */

/** @type {Set<Follower>} */
const followers = new Set();
/** @type {{ here: () => void, leave: () => void } | null} */
let link = null;
let unanswered = 0;

/**
 * Follows the changes of all jobs until `signal` aborts.
 * @param {Follower & { signal: AbortSignal }} options
 */
export function followChanges({ onChange, onState, signal }) {
  if (signal.aborted) return;
  const follower = { onChange, onState };
  followers.add(follower);
  onState('connecting');
  signal.addEventListener('abort', () => {
    followers.delete(follower);
    if (followers.size === 0) link?.leave();
  });
  sayHere();
}

function sayHere() {
  if (followers.size === 0) return;
  link ??= linkToWorker() ?? linkToOwnHub();
  link.here();
}

/** @param {Word} word */
function hear({ state, ids }) {
  unanswered = 0;
  for (const { onChange, onState } of followers) {
    onState(state);
    if (ids !== undefined) onChange(ids);
  }
}

function linkToWorker() {
  if (typeof SharedWorker !== 'function') return null;
  try {
    const worker = new SharedWorker('/js/api/hub-worker.js', { type: 'module', name: WORKER_NAME });
    worker.addEventListener('error', () => {
      // The script did not load, or the browser refuses it.
      link = linkToOwnHub();
      sayHere();
    });
    worker.port.addEventListener('message', ({ data }) => hear(data));
    worker.port.start();
    return { here: () => worker.port.postMessage('here'), leave: () => worker.port.postMessage('leave') };
  } catch {
    return null;
  }
}

function linkToOwnHub() {
  const hub = new Hub('/v1/changes');
  return { here: () => (document.hidden ? hub.leave(hear) : hub.join(hear)), leave: () => hub.leave(hear) };
}

function beat() {
  if (followers.size > 0 && unanswered >= MAX_UNANSWERED) {
    hear({ state: 'lost' });
    link = null;
  }
  unanswered += 1;
  sayHere();
}

setInterval(beat, INTERVAL);
document.addEventListener('visibilitychange', sayHere);
window.addEventListener('online', sayHere);
window.addEventListener('pagehide', () => link?.leave());
window.addEventListener('pageshow', ({ persisted }) => { if (persisted) sayHere(); });
