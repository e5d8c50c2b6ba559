// Shows the page that the fragment of the address names. The server knows no pages, only files.

import './ui/locale.js';
import { api } from './api/client.js';
import { setConnection } from './ui/connection.js';
import { byId, fill, h, refreshAges, setText } from './ui/dom.js';
import { currentEntry, recall, remember, restoreScroll } from './ui/places.js';

/** @typedef {(context: PageContext) => PageView | void | Promise<void>} Page */
/**
 * `nav` is the entry of the navigation.
 * @typedef {{ nav: string | null, title: string, load: () => Promise<Page> }} Route
 */

/**
 * Pages are loaded when they are first shown: the list of jobs needs no chart library.
 * @type {(Route & { pattern: RegExp })[]}
 */
const ROUTES = [
  { pattern: /^\/$/, nav: 'jobs', title: 'Jobs', load: async () => (await import('./jobs/page.js')).jobsPage },
  { pattern: /^\/jobs\/([^/]+)$/, nav: 'jobs', title: 'Job', load: async () => (await import('./job/page.js')).jobPage },
  { pattern: /^\/jobs\/([^/]+)\/mistakes$/, nav: 'jobs', title: 'Mistakes', load: async () => (await import('./mistakes/page.js')).mistakesPage },
  { pattern: /^\/compare$/, nav: 'compare', title: 'Compare', load: async () => (await import('./compare/page.js')).comparePage },
  { pattern: /^\/groups$/, nav: 'jobs', title: 'Best settings', load: async () => (await import('./groups/page.js')).groupsPage },
  { pattern: /^\/sweeps$/, nav: 'sweeps', title: 'Sweeps', load: async () => (await import('./sweeps/list.js')).sweepsPage },
  { pattern: /^\/sweeps\/new$/, nav: 'sweeps', title: 'New sweep', load: async () => (await import('./sweeps/new.js')).newSweepPage },
  { pattern: /^\/sweeps\/([^/]+)$/, nav: 'sweeps', title: 'Sweep', load: async () => (await import('./sweeps/page.js')).sweepPage },
  { pattern: /^\/new$/, nav: 'new', title: 'New job', load: async () => (await import('./new/page.js')).newPage },
  { pattern: /^\/data$/, nav: 'data', title: 'Data', load: async () => (await import('./data/page.js')).dataPage },
  { pattern: /^\/data\/([^/]+)$/, nav: 'data', title: 'Data set', load: async () => (await import('./data/dataset.js')).datasetPage },
  { pattern: /^\/workers$/, nav: 'workers', title: 'Workers', load: async () => (await import('./workers/page.js')).workersPage },
];
/** @type {Route} */
const NOT_FOUND = { nav: null, title: 'Not found', load: async () => notFound };
const AGES_INTERVAL = 5000;

const main = byId('main');
const signOut = byId('sign-out');
let leaving = new AbortController();
/** @type {{ path: string | null, view: PageView | null, entry: string | null }} */
let shown = { path: null, view: null, entry: null };
let isSigningIn = false;

/** The page of the address. */
function route() {
  const [path, search = ''] = (location.hash.slice(1) || '/').split('?');
  const query = new URLSearchParams(search);
  for (const { pattern, ...page } of ROUTES) {
    const match = pattern.exec(path);
    if (match) return { path, page, id: match[1] && decode(match[1]), query };
  }
  return { path, page: NOT_FOUND, query };
}

/** @param {string} part */
function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** @type {Page} */
function notLoaded({ root }) {
  const reload = h('button', { type: 'button', onclick: () => location.reload() }, 'Reload');
  fill(root, h('h1', {}, 'This page did not load'), h('p', {}, 'The server does not answer. Is it running?'), h('p', {}, reload));
}

/** @type {Page} */
function notFound({ root }) {
  fill(root, h('h1', {}, 'Page not found'), h('p', {}, h('a', { href: '#/' }, 'All jobs')));
}

/** @param {boolean} isFirst */
async function show(isFirst) {
  const { path, page: { nav, title, load }, id, query } = route();
  if (shown.entry) remember(shown.entry, shown.view?.remember?.());
  const entry = currentEntry();
  const memory = recall(entry);
  if (path === shown.path && shown.view) {
    shown.entry = entry;
    shown.view.update(query);
    if (memory) restoreScroll(main, memory.scroll, leaving.signal);
    return;
  }
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  shown = { path, view: null, entry };
  markCurrent(nav);
  setConnection('idle');
  setTitle(title);
  fill(main);
  window.scrollTo(0, 0);
  if (!isFirst) main.focus({ preventScroll: true });
  const page = await load().catch(() => notLoaded);
  if (!signal.aborted) {
    const view = page({ root: main, id, query, signal, setTitle, announce, memory: memory?.state });
    shown.view = view && 'update' in view ? view : null;
    if (memory) restoreScroll(main, memory.scroll, signal);
  }
}

/** @param {string | null} nav */
function markCurrent(nav) {
  for (const link of document.querySelectorAll('nav [data-page]')) {
    if (link.getAttribute('data-page') === nav) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

/** Offers to sign out, if the server needs a token and has one. */
async function showSession() {
  try {
    const { required, scope } = await api.session();
    signOut.hidden = !(required && scope);
  } catch {
    signOut.hidden = true;
  }
}

async function signIn() {
  if (isSigningIn) return;
  isSigningIn = true;
  leaving.abort();
  shown = { path: null, view: null, entry: null };
  signOut.hidden = true;
  setConnection('idle');
  setTitle('Sign in');
  const { signInPage } = await import('./ui/sign-in.js');
  signInPage(main, () => {
    isSigningIn = false;
    showSession();
    show(false);
  });
}

/** @param {string} title */
function setTitle(title) {
  const wanted = `${title} · distillery`;
  if (document.title !== wanted) document.title = wanted;
}

/** @param {string} text */
function announce(text) {
  setText(byId('announcer'), text);
}

// Any request may show that the token is missing or no longer valid.
window.addEventListener('unauthorized', signIn);
signOut.addEventListener('click', async () => {
  await api.signOut().catch(() => {});
  signIn();
});
window.addEventListener('hashchange', () => {
  if (!isSigningIn && (location.hash === '' || location.hash.startsWith('#/'))) show(false);
});
byId('skip').addEventListener('click', (event) => {
  // The fragment of the address is the page: do not follow the link.
  event.preventDefault();
  main.focus();
});
setInterval(() => refreshAges(main), AGES_INTERVAL);
history.scrollRestoration = 'manual';
showSession();
show(true);
