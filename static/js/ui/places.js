// Where the user was: the list with its filters, and how far each page of the browser's history was scrolled.

const LIST_KEY = 'distillery-list';
/** Milliseconds in which a page that is loading can still be scrolled to where it was. */
const PATIENCE = 10_000;

/** @typedef {{ scroll: number, state: unknown }} Memory `state` is what the page remembers of itself */

/** The address of the list as it was last shown. */
export function listAddress() {
  return sessionStorage.getItem(LIST_KEY) ?? '#/';
}

/** @param {string} address */
export function rememberList(address) {
  sessionStorage.setItem(LIST_KEY, address);
}

/** @type {Map<string, Memory>} */
const memories = new Map();

/**
 * Notes how the page of an entry of the history was left.
 * @param {string} entry
 * @param {unknown} state
 */
export function remember(entry, state) {
  memories.set(entry, { scroll: window.scrollY, state });
}

/**
 * @param {string} entry
 * @returns {Memory | undefined}
 */
export function recall(entry) {
  return memories.get(entry);
}

/** The name of the history's current entry; a new entry gets one. */
export function currentEntry() {
  const known = history.state?.entry;
  if (typeof known === 'string') return known;
  const entry = `${Date.now()}-${memories.size}-${history.length}`;
  history.replaceState({ entry }, '');
  return entry;
}

/**
 * Replaces the address and keeps the entry.
 * @param {string} address
 */
export function replaceAddress(address) {
  history.replaceState(history.state, '', address);
}

/**
 * Scrolls to where the page was, as soon as enough of it is there; not if the user scrolls first.
 * @param {HTMLElement} content
 * @param {number} top
 * @param {AbortSignal} signal of the page
 */
export function restoreScroll(content, top, signal) {
  const done = new AbortController();
  const options = { signal: done.signal, passive: true };
  const scroll = () => {
    window.scrollTo(0, top);
    if (window.scrollY >= top - 1) done.abort();
  };
  const observer = new ResizeObserver(scroll);
  done.signal.addEventListener('abort', () => observer.disconnect());
  signal.addEventListener('abort', () => done.abort(), options);
  for (const input of ['wheel', 'touchstart', 'pointerdown', 'keydown']) window.addEventListener(input, () => done.abort(), options);
  setTimeout(() => done.abort(), PATIENCE);
  scroll();
  if (!done.signal.aborted) observer.observe(content);
}
