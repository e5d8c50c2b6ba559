// Has the server decode the images of the data set that a job names, so that a check can say what they show.

import { api } from '../api/client.js';
import { Poller } from '../api/poller.js';

/** Milliseconds until the server is asked again whether it has decoded them. */
const AGAIN = 2000;

export class ImageWatch {
  #name = '';
  #onDecoded;
  #signal;
  #other = new AbortController();

  /**
   * @param {() => void} onDecoded called if they were not decoded when a data set was named, and are now
   * @param {AbortSignal} signal
   */
  constructor(onDecoded, signal) {
    this.#onDecoded = onDecoded;
    this.#signal = signal;
  }

  /** @param {string} name of the data set of a job that can run */
  follow(name) {
    if (name === this.#name) return;
    this.#name = name;
    this.#other.abort();
    this.#other = new AbortController();
    let hasWaited = false;
    const poller = new Poller({
      interval: AGAIN, signal: AbortSignal.any([this.#signal, this.#other.signal]),
      request: async (stop) => {
        const { statistics, statistics_fault: fault } = await api.dataset(name, stop);
        if (statistics && hasWaited) this.#onDecoded();
        if (statistics || fault) return;
        hasWaited = true;
        poller.soon();
      },
      // The check says what is wrong with a data set.
      onError: () => poller.stop(),
    });
    poller.soon();
  }
}
