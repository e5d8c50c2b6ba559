// A SharedWorker with the one stream of changes of this browser. Every tab has a port.

import { Hub } from './hub.js';

/** @import { Member } from './hub.js' */

const hub = new Hub('/v1/changes');

globalThis.addEventListener('connect', (event) => {
  const [port] = /** @type {MessageEvent} */ (event).ports;
  /** @type {Member} */
  const member = (word) => port.postMessage(word);
  port.addEventListener('message', ({ data }) => {
    if (data === 'here') hub.join(member);
    else if (data === 'leave') hub.leave(member);
  });
  port.start();
});
