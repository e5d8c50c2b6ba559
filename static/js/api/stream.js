// Server-Sent Events with a connection state that tells the truth.
//
// The browser reconnects by itself with Last-Event-ID while the server can be reached at all; where it gives up (an
// error status), this opens the stream anew, with the last id as `after`. Comments that keep a connection alive are
// invisible to a page, so after a silence it asks the server whether it is still there.

import { api } from './client.js';

const SILENCE = 20_000;
const ANSWER = 5_000;
const FIRST_RETRY = 1_000;
const LONGEST_RETRY = 15_000;

/**
 * Follows `path` until `signal` aborts or `stop` is called.
 *
 * `after` is where to begin. `on` maps names of events to functions of the parsed data; `onState` gets `connecting`,
 * `live`, `lost` or `ended`; `onReconnect` runs after a gap. `isOver()` says that the server closes for good.
 */
export function follow(path, { after, on, onState, onReconnect, isOver, signal }) {
  let source = null;
  let lastId = after;
  let lastHeard = Date.now();
  let retry = FIRST_RETRY;
  let timer = null;
  let wasLost = false;
  let stopped = false;

  function open() {
    if (stopped) return;
    source?.close();
    source = new EventSource(lastId ? `${path}?after=${encodeURIComponent(lastId)}` : path);
    const current = source;
    current.addEventListener('open', () => {
      heard();
      onState('live');
      if (wasLost) onReconnect?.();
      wasLost = false;
      retry = FIRST_RETRY;
    });
    current.addEventListener('error', () => {
      if (current === source) broken();
    });
    for (const [name, handle] of Object.entries(on)) {
      current.addEventListener(name, (message) => {
        heard();
        if (message.lastEventId) lastId = message.lastEventId;
        handle(JSON.parse(message.data));
      });
    }
  }

  function heard() {
    lastHeard = Date.now();
  }

  function broken() {
    if (stopped) return;
    if (isOver?.()) {
      stop();
      onState('ended');
      return;
    }
    lost();
    if (source.readyState === EventSource.CLOSED) again();
  }

  function lost() {
    wasLost = true;
    onState('lost');
  }

  function again() {
    clearTimeout(timer);
    timer = setTimeout(open, retry * (0.75 + Math.random() / 2));
    retry = Math.min(retry * 2, LONGEST_RETRY);
  }

  async function probe() {
    try {
      await api.alive(AbortSignal.timeout(ANSWER));
      heard();
    } catch {
      if (stopped) return;
      source.close();
      lost();
      again();
    }
  }

  const watch = setInterval(() => {
    if (source?.readyState === EventSource.OPEN && Date.now() - lastHeard > SILENCE) probe();
  }, SILENCE / 4);
  const wake = () => {
    if (!document.hidden && source?.readyState === EventSource.OPEN) probe();
  };
  document.addEventListener('visibilitychange', wake);
  window.addEventListener('online', wake);
  window.addEventListener('offline', wake);

  function stop() {
    if (stopped) return;
    stopped = true;
    clearTimeout(timer);
    clearInterval(watch);
    document.removeEventListener('visibilitychange', wake);
    window.removeEventListener('online', wake);
    window.removeEventListener('offline', wake);
    source?.close();
  }

  signal.addEventListener('abort', stop);
  onState('connecting');
  open();
  return { stop };
}
