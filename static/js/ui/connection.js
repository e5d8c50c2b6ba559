// Shows whether the page is live, and if not, since when it has been out of date.

import { now } from '../api/client.js';
import { byId, setText } from './dom.js';
import { clock } from './format.js';

/** @type {Record<ConnectionState, string>} */
const TEXTS = { idle: '', connecting: 'connecting…', live: 'live', lost: 'connection lost', ended: 'final' };

/** @type {ConnectionState} */
let state = 'idle';
/** @type {number | null} */
let lastLive = null;

/** @param {ConnectionState} next */
export function setConnection(next) {
  if (state === 'live' && next === 'lost') lastLive = now();
  // A new try changes nothing until it succeeds.
  if (state === 'lost' && next === 'connecting') return;
  state = next;
  byId('connection').dataset.state = next;
  setText(byId('connection-text'), TEXTS[next]);
  const isLost = next === 'lost';
  document.body.classList.toggle('stale', isLost);
  const banner = byId('lost');
  banner.hidden = !isLost;
  const age = lastLive ? ` The page shows the state of ${clock(lastLive, now())}.` : '';
  setText(banner, isLost ? `Connection lost – retrying.${age}` : '');
}

export function isStale() {
  return state === 'lost';
}
