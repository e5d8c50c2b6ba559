// Requests to /v1. Every failure becomes an ApiError whose message can be shown.

/** An error answer (RFC 9457), or a server that did not answer (status 0). */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} detail
   * @param {Fault[]} [errors] faults of the body that was sent
   */
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

/** Of a request that cannot be answered as it is. Other errors pass, or end when somebody signs in. */
const REFUSALS = [400, 404, 422];

/**
 * Whether the server refused a request for what it says: repeated, it is refused again until something changes.
 * @param {Error} error
 */
export function isRefusal(error) {
  return error instanceof ApiError && REFUSALS.includes(error.status);
}

let clockOffset = 0;
/**
 * When each request began that is not answered yet, in milliseconds of `performance.now()`.
 * @type {Set<{ since: number }>}
 */
const waiting = new Set();

/** Milliseconds for which the slowest request under way has been waiting for its answer; 0 without one. */
export function longestWait() {
  return Math.max(0, ...[...waiting].map(({ since }) => performance.now() - since));
}

/** The server's time in milliseconds, so that ages are right even if this machine's clock is not. */
export function now() {
  return Date.now() + clockOffset;
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 */
async function request(path, options = {}) {
  const asked = { since: performance.now() };
  // Only what the page shows can be out of date.
  if (!options.method) waiting.add(asked);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'The server does not answer. Is it running?');
  } finally {
    waiting.delete(asked);
  }
  const date = Date.parse(response.headers.get('date') ?? '');
  // The header is rounded to seconds.
  if (Number.isFinite(date) && Math.abs(date - Date.now()) > 2000) clockOffset = date - Date.now();
  if (response.status === 401) globalThis.dispatchEvent?.(new Event('unauthorized'));
  if (!response.ok) throw problem(response.status, await response.text());
  return response;
}

/**
 * The error of an answer without success.
 * @param {number} status
 * @param {string} text the body
 */
export function problem(status, text) {
  try {
    const { title, detail, errors } = JSON.parse(text);
    return new ApiError(status, String(detail ?? title), Array.isArray(errors) ? errors : []);
  } catch {
    return new ApiError(status, `The server answered ${status}${text ? `: ${text.slice(0, 300)}` : ''}`);
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 */
async function json(path, options) {
  const response = await request(path, options);
  return response.status === 204 ? null : response.json();
}

/**
 * @param {string} method
 * @param {string} path
 * @param {RequestInit} [options]
 */
function send(method, path, options = {}) {
  return json(path, { ...options, method });
}

const jobPath = (/** @type {string} */ id, rest = '') => `/v1/jobs/${encodeURIComponent(id)}${rest}`;

const sweepPath = (/** @type {string} */ id, rest = '') => `/v1/sweeps/${encodeURIComponent(id)}${rest}`;

const datasetPath = (/** @type {string} */ name, rest = '') => `/v1/datasets/${encodeURIComponent(name)}${rest}`;

/** @param {RequestParameters} parameters */
function query(parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== '') search.append(name, String(one));
    }
  }
  const text = search.toString();
  return text ? `?${text}` : '';
}

export const paths = {
  job: jobPath,
  student: (/** @type {string} */ id, /** @type {'best' | 'last' | undefined} */ which = undefined) => jobPath(id, `/student${query({ which })}`),
  export: (/** @type {string} */ id, /** @type {string} */ format) => jobPath(id, `/student${query({ format })}`),
  exportReport: (/** @type {string} */ id, /** @type {string} */ format) => paths.artifact(id, `export-${format}.json`),
  artifact: (/** @type {string} */ id, /** @type {string} */ name) => jobPath(id, `/artifacts/${encodeURIComponent(name)}`),
  tensorboard: (/** @type {string} */ id) => jobPath(id, '/tensorboard'),
  jobStream: (/** @type {string} */ id) => jobPath(id, '/stream'),
  upload: (/** @type {RequestParameters} */ parameters) => `/v1/checkpoints${query(parameters)}`,
  dataset: datasetPath,
  predictions: (/** @type {string} */ id, rest = '') => jobPath(id, `/predictions${rest}`),
  sweep: sweepPath,
  sweepCsv: (/** @type {string} */ id) => sweepPath(id, '?format=csv'),
  newJob: (/** @type {RequestParameters} */ parameters) => `/v1/jobs${query(parameters)}`,
  newSweep: (/** @type {RequestParameters} */ parameters) => `/v1/sweeps${query(parameters)}`,
  groups: (/** @type {RequestParameters} */ parameters) => `/v1/groups${query(parameters)}`,
  pareto: (/** @type {RequestParameters} */ parameters) => `/v1/pareto${query(parameters)}`,
};

/** @type {ApiClient} */
export const api = {
  summaries: (parameters, signal) => json(`/v1/summaries${query(parameters)}`, { signal }),
  labels: (parameters, signal) => json(`/v1/labels${query(parameters)}`, { signal }),
  groups: (parameters, signal) => json(paths.groups(parameters), { signal }),
  settings: (signal) => json('/v1/settings', { signal }),
  pareto: (parameters, signal) => json(paths.pareto(parameters), { signal }),
  job: (id, signal) => json(jobPath(id), { signal }),
  metrics: (id, { name, maxPoints }, signal) => json(jobPath(id, `/metrics${query({ name, max_points: maxPoints })}`), { signal }),
  metricsCsv: async (id) => (await request(jobPath(id, '/metrics?max_points=100000'), { headers: { accept: 'text/csv' } })).blob(),
  events: (id, { after, limit }, signal) => json(jobPath(id, `/events${query({ after, limit })}`), { signal }),
  updates: (id, after, signal) => json(jobPath(id, `/updates${query({ after })}`), { signal }),
  attempts: (id, signal) => json(jobPath(id, '/attempts'), { signal }),
  possibleTeachers: (q, signal) => json(`/v1/summaries${query({ q, status: ['succeeded', 'running', 'queued', 'pausing', 'paused'], limit: 50 })}`, { signal }),
  submitted: (id, signal) => json(jobPath(id, '/submitted'), { signal }),
  artifacts: (id, signal) => json(jobPath(id, '/artifacts'), { signal }),
  exportReport: (id, format, signal) => json(paths.exportReport(id, format), { signal }),
  regions: (id, signal) => json(paths.artifact(id, 'regions.json'), { signal }),
  predictionSummary: (id, signal) => json(paths.predictions(id, '/summary'), { signal }),
  predictions: (id, parameters, signal) => json(paths.predictions(id, query(parameters)), { signal }),
  change: (id, verb) => send('POST', jobPath(id, `/${verb}`)),
  remove: (id) => send('DELETE', jobPath(id)),
  check: (body, bounds, signal) => send('POST', paths.newJob({ dry_run: 'true', ...bounds }), { body, signal, headers: { 'content-type': 'application/json' } }),
  create: (body, bounds, key) => send('POST', paths.newJob(bounds), { body, headers: { 'content-type': 'application/json', 'idempotency-key': key } }),
  sweeps: (after, signal) => json(`/v1/sweeps${query({ limit: 100, after })}`, { signal }),
  sweep: (id, signal) => json(sweepPath(id), { signal }),
  sweepCsv: async (id) => (await request(paths.sweepCsv(id))).blob(),
  checkSweep: (body, bounds, signal) => send('POST', paths.newSweep({ dry_run: 'true', ...bounds }), { body, signal, headers: { 'content-type': 'application/json' } }),
  createSweep: (body, bounds, key) => send('POST', paths.newSweep(bounds), { body, headers: { 'content-type': 'application/json', 'idempotency-key': key } }),
  changeSweep: (id, verb) => send('POST', sweepPath(id, `/${verb}`)),
  removeSweep: (id) => send('DELETE', sweepPath(id)),
  architectures: (signal) => json('/v1/architectures', { signal }),
  datasets: (signal) => json('/v1/datasets', { signal }),
  dataset: (name, signal) => json(datasetPath(name), { signal }),
  datasetImages: (name, parameters, signal) => json(datasetPath(name, `/images${query(parameters)}`), { signal }),
  datasetUpload: (name, upload, signal) => json(datasetPath(name, `/uploads/${encodeURIComponent(upload)}`), { signal }),
  removeUpload: (name, upload) => send('DELETE', datasetPath(name, `/uploads/${encodeURIComponent(upload)}`)),
  removeShards: (name, split) => send('DELETE', datasetPath(name, `/shards/${encodeURIComponent(split)}`)),
  removeDataset: (name) => send('DELETE', datasetPath(name)),
  checkpoints: (after, signal) => json(`/v1/checkpoints${query({ limit: 100, after })}`, { signal }),
  workers: (signal) => json('/v1/workers', { signal }),
  description: (signal) => json('/openapi.json', { signal }),
  system: (signal) => json('/v1/system', { signal }),
  session: (signal) => json('/v1/session', { signal }),
  signIn: (token) => send('POST', '/v1/session', { headers: { authorization: `Bearer ${token}` } }),
  signOut: () => send('DELETE', '/v1/session'),
};

/** Pages of checkpoints that are read at most, of 100 each. */
const MAX_PAGES = 50;

/**
 * The uploaded checkpoints, newest first: all, or the newest 5,000, and whether there are more.
 * @param {AbortSignal} signal
 */
export async function allCheckpoints(signal) {
  /** @type {Schemas['Checkpoint'][]} */
  const all = [];
  /** @type {string | null | undefined} */
  let after;
  for (let pages = 0; pages < MAX_PAGES; pages += 1) {
    const page = await api.checkpoints(after, signal);
    all.push(...page.data);
    if (!page.has_more) return { checkpoints: all, hasOlder: false };
    after = page.next;
  }
  return { checkpoints: all, hasOlder: true };
}

/**
 * All events of a job after number `after`.
 * @param {string} id
 * @param {number} after
 * @param {AbortSignal} signal
 */
export async function allEvents(id, after, signal) {
  const events = [];
  for (;;) {
    const page = await api.events(id, { after: events.at(-1)?.seq ?? after, limit: 1000 }, signal);
    events.push(...page.data);
    if (!page.has_more || page.data.length === 0) return events;
  }
}

/** A key that makes a repeated request the same request. Works without https too, where crypto.randomUUID does not. */
export function idempotencyKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return `page-${Array.from(random, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}
