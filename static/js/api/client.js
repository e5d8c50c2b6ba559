// Requests to /v1. Every failure becomes an ApiError that says what to do.

/** What went wrong, from a problem document (RFC 9457) or from the connection. */
export class ApiError extends Error {
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    /** `[{pointer, detail}]`: the faults of the body that was sent. */
    this.errors = errors;
  }
}

let clockOffset = 0;

/** The time on the server's clock, in milliseconds: ages are right on a machine whose own clock is not. */
export function now() {
  return Date.now() + clockOffset;
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'The server does not answer. Is it running?');
  }
  const date = Date.parse(response.headers.get('date'));
  // The header has whole seconds.
  if (Number.isFinite(date) && Math.abs(date - Date.now()) > 2000) clockOffset = date - Date.now();
  if (response.status === 401) globalThis.dispatchEvent?.(new Event('unauthorized'));
  if (!response.ok) throw await problem(response.status, await response.text());
  return response;
}

/** The ApiError of an answer that is no success. */
export async function problem(status, text) {
  try {
    const { title, detail, errors } = JSON.parse(text);
    return new ApiError(status, String(detail ?? title), Array.isArray(errors) ? errors : []);
  } catch {
    return new ApiError(status, `The server answered ${status}${text ? `: ${text.slice(0, 300)}` : ''}`);
  }
}

async function json(path, options) {
  const response = await request(path, options);
  return response.status === 204 ? null : response.json();
}

function send(method, path, options = {}) {
  return json(path, { ...options, method });
}

const jobPath = (id, rest = '') => `/v1/jobs/${encodeURIComponent(id)}${rest}`;

function query(parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== '') search.append(name, one);
    }
  }
  const text = search.toString();
  return text ? `?${text}` : '';
}

export const paths = {
  job: jobPath,
  student: (id, which) => jobPath(id, `/student${query({ which })}`),
  artifact: (id, name) => jobPath(id, `/artifacts/${encodeURIComponent(name)}`),
  jobStream: (id) => jobPath(id, '/stream'),
  changes: '/v1/changes',
  upload: (parameters) => `/v1/checkpoints${query(parameters)}`,
};

export const api = {
  summaries: (parameters, signal) => json(`/v1/summaries${query(parameters)}`, { signal }),
  labels: (parameters, signal) => json(`/v1/labels${query(parameters)}`, { signal }),
  job: (id, signal) => json(jobPath(id), { signal }),
  metrics: (id, { name, maxPoints }, signal) => json(jobPath(id, `/metrics${query({ name, max_points: maxPoints })}`), { signal }),
  metricsCsv: async (id) => (await request(jobPath(id, '/metrics?max_points=100000'), { headers: { accept: 'text/csv' } })).blob(),
  events: (id, { after, limit }, signal) => json(jobPath(id, `/events${query({ after, limit })}`), { signal }),
  attempts: (id, signal) => json(jobPath(id, '/attempts'), { signal }),
  /** Jobs whose student can be a teacher, now or once they have ended. */
  possibleTeachers: (signal) => json(`/v1/jobs${query({ status: ['succeeded', 'running', 'queued', 'pausing', 'paused'], limit: 100 })}`, { signal }),
  submitted: (id, signal) => json(jobPath(id, '/submitted'), { signal }),
  artifacts: (id, signal) => json(jobPath(id, '/artifacts'), { signal }),
  regions: (id, signal) => json(paths.artifact(id, 'regions.json'), { signal }),
  change: (id, verb) => send('POST', jobPath(id, `/${verb}`)),
  remove: (id) => send('DELETE', jobPath(id)),
  check: (body, signal) => send('POST', '/v1/jobs?dry_run=true', { body, signal, headers: { 'content-type': 'application/json' } }),
  create: (body, key) => send('POST', '/v1/jobs', { body, headers: { 'content-type': 'application/json', 'idempotency-key': key } }),
  architectures: (signal) => json('/v1/architectures', { signal }),
  datasets: (signal) => json('/v1/datasets', { signal }),
  checkpoints: (signal) => json('/v1/checkpoints?limit=100', { signal }),
  workers: (signal) => json('/v1/workers', { signal }),
  description: (signal) => json('/openapi.json', { signal }),
  system: (signal) => json('/v1/system', { signal }),
  session: (signal) => json('/v1/session', { signal }),
  signIn: (token) => send('POST', '/v1/session', { headers: { authorization: `Bearer ${token}` } }),
  signOut: () => send('DELETE', '/v1/session'),
  alive: (signal) => request('/healthz', { signal, cache: 'no-store' }),
};

/** Everything of a job's history. */
export async function allEvents(id, after, signal) {
  const events = [];
  for (;;) {
    const page = await api.events(id, { after: events.at(-1)?.seq ?? after, limit: 1000 }, signal);
    events.push(...page.data);
    if (!page.has_more || page.data.length === 0) return events;
  }
}

/** A key under which a repeated request is the same request; works without https too. */
export function idempotencyKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return `page-${Array.from(random, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}
