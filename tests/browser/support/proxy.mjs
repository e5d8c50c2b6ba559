// A connection to the server that can be watched and held up.

import { EventEmitter, once } from 'node:events';
import { connect, createServer } from 'node:net';

const STREAM = /^GET \/v1\/(changes|stream|jobs\/[^/ ]+\/stream)[ ?]/m;

/** Forwards to the server at `url`. `mostStreams` counts streams open at once, `requests` has the paths of all GETs. */
export async function startProxy(url) {
  const { hostname, port } = new URL(url);
  const sockets = new Set();
  const streams = new Set();
  const events = new EventEmitter();
  const proxy = { requests: [], mostStreams: 0 };
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      // Either end may be reset, as when a browser leaves a page.
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        if (streams.delete(upstream)) events.emit('stream-closed');
        client.destroy();
        upstream.destroy();
      });
    }
    client.on('data', (bytes) => {
      const text = bytes.toString('latin1');
      for (const [, path] of text.matchAll(/^GET (\S+) HTTP/gm)) proxy.requests.push(path);
      if (STREAM.test(text)) streams.add(upstream);
      proxy.mostStreams = Math.max(proxy.mostStreams, streams.size);
    });
    client.pipe(upstream);
    upstream.pipe(client);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return Object.assign(proxy, {
    url: `http://127.0.0.1:${server.address().port}`,
    /** Waits until the next stream is closed: call it before whatever closes one. */
    streamClosed: () => once(events, 'stream-closed'),
    /** Nothing more arrives from the streams that are open now, though they stay open. */
    silenceStreams() {
      for (const upstream of streams) {
        upstream.unpipe();
        upstream.resume();
      }
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  });
}
