// Which page is shown: routes by the fragment of the address, so that any server can serve the files.

import './ui/locale.js';
import { api } from './api/client.js';
import { setConnection } from './ui/connection.js';
import { fill, h, refreshAges, setText } from './ui/dom.js';
import { signInPage } from './ui/sign-in.js';

// Each page is loaded when it is first shown: a list of jobs needs no charts.
const ROUTES = [
  { pattern: /^\/$/, nav: 'jobs', title: 'Jobs', load: async () => (await import('./jobs/page.js')).jobsPage },
  { pattern: /^\/jobs\/([^/]+)$/, nav: 'jobs', title: 'Job', load: async () => (await import('./job/page.js')).jobPage },
  { pattern: /^\/compare$/, nav: 'compare', title: 'Compare', load: async () => (await import('./compare/page.js')).comparePage },
  { pattern: /^\/new$/, nav: 'new', title: 'New job', load: async () => (await import('./new/page.js')).newPage },
  { pattern: /^\/workers$/, nav: 'workers', title: 'Workers', load: async () => (await import('./workers/page.js')).workersPage },
];

const main = document.getElementById('main');
const announcer = document.getElementById('announcer');
let leaving = new AbortController();
/** What is shown: its path and, where it can show another part of itself in place, its `update(query)`. */
let shown = { path: null, view: null };

function route() {
  const [path, search = ''] = (location.hash.slice(1) || '/').split('?');
  for (const { pattern, ...rest } of ROUTES) {
    const match = pattern.exec(path);
    if (match) return { path, ...rest, id: match[1] && decode(match[1]), query: new URLSearchParams(search) };
  }
  return { path, nav: null, title: 'Not found', load: async () => notFound, query: new URLSearchParams() };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function notLoaded({ root }) {
  const again = h('button', { type: 'button', onclick: () => location.reload() }, 'Load it again');
  fill(root, h('h1', {}, 'This page did not load'), h('p', {}, 'The server does not answer. Is it running?'), h('p', {}, again));
}

function notFound({ root }) {
  fill(root, h('h1', {}, 'There is no such page'), h('p', {}, h('a', { href: '#/' }, 'All jobs')));
}

async function show(isFirst) {
  const { path, nav, title, load, id, query } = route();
  if (path === shown.path && shown.view?.update) {
    shown.view.update(query);
    return;
  }
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  shown = { path, view: null };
  for (const link of document.querySelectorAll('nav [data-page]')) {
    if (link.dataset.page === nav) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  setConnection('idle');
  setTitle(title);
  fill(main);
  window.scrollTo(0, 0);
  if (!isFirst) main.focus({ preventScroll: true });
  const page = await load().catch(() => notLoaded);
  if (!signal.aborted) shown.view = page({ root: main, id, query, signal, setTitle, announce });
}

const signOut = document.getElementById('sign-out');
let isSigningIn = false;

/** Shows who may leave. A server that needs no token has nobody to sign out. */
async function showSession() {
  try {
    const { required, scope } = await api.session();
    signOut.hidden = !(required && scope);
  } catch {
    signOut.hidden = true;
  }
}

// Any request may find out that the token is missing or not valid any more.
window.addEventListener('unauthorized', () => {
  if (isSigningIn) return;
  isSigningIn = true;
  leaving.abort();
  shown = { path: null, view: null };
  signOut.hidden = true;
  setConnection('idle');
  setTitle('Sign in');
  signInPage(main, () => {
    isSigningIn = false;
    showSession();
    show(false);
  });
});
signOut.addEventListener('click', async () => {
  await api.signOut().catch(() => {});
  window.dispatchEvent(new Event('unauthorized'));
});

function setTitle(title) {
  const wanted = `${title} · distillery`;
  if (document.title !== wanted) document.title = wanted;
}

/** For those who do not see the page change. */
function announce(text) {
  setText(announcer, text);
}

// A link to the place in view (the skip link) is no route.
window.addEventListener('hashchange', () => {
  if (!isSigningIn && (location.hash === '' || location.hash.startsWith('#/'))) show(false);
});
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});
setInterval(() => refreshAges(main), 5000);
showSession();
show(true);
