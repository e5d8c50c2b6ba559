// Which page is shown: routes by the fragment of the address, so that any server can serve the files.

import './locale.js';
import { api } from './api.js';
import { setConnection } from './connection.js';
import { fill, h, refreshAges, setText } from './dom.js';
import { jobPage } from './job-page.js';
import { jobsPage } from './jobs-page.js';
import { newPage } from './new-page.js';
import { signInPage } from './sign-in.js';
import { workersPage } from './workers-page.js';

const ROUTES = [
  { pattern: /^\/$/, nav: 'jobs', title: 'Jobs', page: jobsPage },
  { pattern: /^\/jobs\/([^/]+)$/, nav: 'jobs', title: 'Job', page: jobPage },
  { pattern: /^\/new$/, nav: 'new', title: 'New job', page: newPage },
  { pattern: /^\/workers$/, nav: 'workers', title: 'Workers', page: workersPage },
];

const main = document.getElementById('main');
const announcer = document.getElementById('announcer');
let leaving = new AbortController();

function route() {
  const [path, search = ''] = (location.hash.slice(1) || '/').split('?');
  for (const { pattern, nav, title, page } of ROUTES) {
    const match = pattern.exec(path);
    if (match) return { nav, title, page, id: match[1] && decode(match[1]), query: new URLSearchParams(search) };
  }
  return { nav: null, title: 'Not found', page: notFound, query: new URLSearchParams() };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function notFound({ root }) {
  fill(root, h('h1', {}, 'There is no such page'), h('p', {}, h('a', { href: '#/' }, 'All jobs')));
}

function show(isFirst) {
  leaving.abort();
  leaving = new AbortController();
  const { nav, title, page, id, query } = route();
  for (const link of document.querySelectorAll('nav [data-page]')) {
    if (link.dataset.page === nav) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  setConnection('idle');
  setTitle(title);
  fill(main);
  window.scrollTo(0, 0);
  page({ root: main, id, query, signal: leaving.signal, setTitle, announce });
  if (!isFirst) main.focus({ preventScroll: true });
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
