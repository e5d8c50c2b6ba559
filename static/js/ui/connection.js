// Says in one place how fresh the page is: live, or lost and since when what it shows is old.

import { clock } from './format.js';
import { now } from '../api/client.js';
import { setText } from './dom.js';

const TEXTS = { idle: '', connecting: 'connecting…', live: 'live', lost: 'connection lost', ended: 'final' };

const badge = document.getElementById('connection');
const badgeText = document.getElementById('connection-text');
const banner = document.getElementById('lost');
let state = 'idle';
let freshAt = null;

/** One of idle, connecting, live, lost, ended. */
export function setConnection(next) {
  if (state === 'live' && next === 'lost') freshAt = now();
  // Trying again is not news while nothing came of it.
  if (state === 'lost' && next === 'connecting') return;
  state = next;
  badge.dataset.state = next;
  setText(badgeText, TEXTS[next]);
  const lost = next === 'lost';
  document.body.classList.toggle('stale', lost);
  banner.hidden = !lost;
  setText(banner, lost ? `Connection lost – retrying.${freshAt ? ` What you see is from ${clock(freshAt, now())} and may be out of date.` : ''}` : '');
}

export function isStale() {
  return state === 'lost';
}
