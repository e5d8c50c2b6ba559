// One stream of changes for everything that follows them. A browser opens at most six connections to a server over
// HTTP/1.1, for all of its tabs together: with a stream each, the seventh tab would wait for ever.

/** All in milliseconds. The server sends a message every 15 seconds at least. */
const SILENCE = 25_000;
const FIRST_RETRY = 1_000;
const MAX_RETRY = 15_000;
const CHECK_INTERVAL = 5_000;
/** A member that says nothing for so long has crashed: hidden tabs speak once a minute. */
const MEMBER_SILENCE = 180_000;

/** @typedef {'connecting' | 'live' | 'lost'} HubState */
/**
 * What members are told: the state, and which jobs changed (null: any).
 * @typedef {{ state: HubState, ids?: string[] | null }} Word
 */
/** @typedef {(word: Word) => void} Member */

export class Hub {
  /** @type {Map<Member, number>} */
  #members = new Map();
  /** @type {EventSource | null} */
  #source = null;
  /** @type {HubState} */
  #state = 'connecting';
  #heard = 0;
  #retry = FIRST_RETRY;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #check;
  #path;

  /** @param {string} path of the server's stream */
  constructor(path) {
    this.#path = path;
  }

  /**
   * Notes that a member is there, and tells it the state.
   * @param {Member} member
   */
  join(member) {
    const isNew = !this.#members.has(member);
    this.#members.set(member, Date.now());
    // A new member may know that the server is back, for example after signing in.
    if (isNew && !this.#source) this.#open();
    member({ state: this.#state });
  }

  /** @param {Member} member */
  leave(member) {
    this.#members.delete(member);
    if (this.#members.size === 0) this.#close();
  }

  #open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource(this.#path);
    this.#source = source;
    this.#heard = Date.now();
    this.#check ??= setInterval(() => this.#look(), CHECK_INTERVAL);
    source.addEventListener('changed', ({ data }) => {
      this.#heard = Date.now();
      this.#retry = FIRST_RETRY;
      this.#state = 'live';
      this.#tell({ state: 'live', ids: JSON.parse(data).ids ?? null });
    });
    source.addEventListener('error', () => {
      if (source !== this.#source) return;
      this.#lose();
      // The browser connects again, unless the server refused.
      if (source.readyState === EventSource.CLOSED) this.#openLater();
    });
  }

  #lose() {
    this.#state = 'lost';
    this.#tell({ state: 'lost' });
  }

  #openLater() {
    this.#source?.close();
    this.#source = null;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), this.#retry * (0.75 + Math.random() / 2));
    this.#retry = Math.min(this.#retry * 2, MAX_RETRY);
  }

  /** A connection can be open and carry nothing: only what arrives shows that it lives. */
  #look() {
    for (const [member, heard] of this.#members) if (Date.now() - heard > MEMBER_SILENCE) this.leave(member);
    if (this.#source && Date.now() - this.#heard > SILENCE) {
      this.#lose();
      this.#openLater();
    }
  }

  #close() {
    clearTimeout(this.#timer);
    clearInterval(this.#check);
    this.#check = undefined;
    this.#source?.close();
    this.#source = null;
    this.#state = 'connecting';
  }

  /** @param {Word} word */
  #tell(word) {
    for (const member of this.#members.keys()) member(word);
  }
}
