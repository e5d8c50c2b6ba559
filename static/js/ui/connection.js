// Shows whether the page is live, and if not, since when it has been out of date. It is live while changes arrive and
// its own requests are answered.

import { longestWait, now } from '../api/client.js';
import { byId, setText } from './dom.js';
import { clock } from './format.js';

/** @type {Record<ConnectionState, string>} */
const TEXTS = { idle: '', connecting: 'connecting…', live: 'live', late: 'out of date', lost: 'connection lost', ended: 'final' };
/** In milliseconds: how long a request may take until the page counts as out of date, and how often that is checked. */
const PATIENCE = 5_000;
const CHECK_INTERVAL = 1_000;

/** @type {ConnectionState} of the stream */
let state = 'idle';
let isAnswered = true;
/** @type {ConnectionState} */
let shown = 'idle';
/** @type {number | null} */
let lastLive = null;

/**
 * What is known of the stream.
 * @param {ConnectionState} next
 */
export function setConnection(next) {
  // A new try changes nothing until it succeeds.
  if (state === 'lost' && next === 'connecting') return;
  if (next === 'idle') isAnswered = true;
  state = next;
  show();
}

/**
 * Whether the last request of the page was answered.
 * @param {boolean} answered
 */
export function setAnswered(answered) {
  isAnswered = answered;
  show();
}

function show() {
  const isCurrent = isAnswered && longestWait() < PATIENCE;
  const next = ['live', 'ended'].includes(state) && !isCurrent ? 'late' : state;
  if (next === 'live') lastLive = now();
  if (next === shown) return;
  shown = next;
  byId('connection').dataset.state = next;
  setText(byId('connection-text'), TEXTS[next]);
  const isLost = next === 'lost';
  document.body.classList.toggle('stale', isStale());
  const banner = byId('lost');
  banner.hidden = !isLost;
  const age = lastLive ? ` The page shows the state of ${clock(lastLive, now())}.` : '';
  setText(banner, isLost ? `Connection lost – retrying.${age}` : '');
}

/** Whether the figures on the page may be out of date. */
export function isStale() {
  return shown === 'lost' || shown === 'late';
}

setInterval(show, CHECK_INTERVAL);
