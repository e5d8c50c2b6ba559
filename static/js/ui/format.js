// Numbers, times and specifications as text. Pure: no DOM, and no clock of its own.

/** @typedef {number | null | undefined} Maybe */

const MISSING = '–';

/**
 * Whether a value is a finite number.
 * @type {(value: unknown) => value is number}
 */
export const isNumber = /** @type {any} */ (Number.isFinite);

/**
 * 76.304 → "76.30 %"
 * @param {Maybe} value
 */
export function percent(value, digits = 2) {
  return isNumber(value) ? `${value.toFixed(digits)} %` : MISSING;
}

/**
 * 0.4567 → "45 %": rounded down, so that 100 % means done.
 * @param {Maybe} fraction
 */
export function share(fraction) {
  return isNumber(fraction) ? `${Math.floor(Math.min(Math.max(fraction, 0), 1) * 100 + 1e-9)} %` : MISSING;
}

/**
 * 1234567 → "1,234,567"
 * @param {Maybe} value
 */
export function whole(value) {
  return isNumber(value) ? Math.round(value).toLocaleString('en-US') : MISSING;
}

/**
 * Four significant digits, with an exponent if there would be many zeros: 0.00001 → "1.000e-5".
 * @param {Maybe} value
 */
export function significant(value) {
  if (!isNumber(value)) return MISSING;
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(3);
  if (size >= 1000) return value.toFixed(0);
  return value.toPrecision(4);
}

/**
 * A short number for an axis: 0.0500 → "0.05".
 * @param {Maybe} value
 */
export function tick(value) {
  if (!isNumber(value)) return '';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace('.0e', 'e');
  return String(Number(value.toPrecision(6)));
}

/**
 * 3555443 → "3.56 M"
 * @param {Maybe} value
 */
export function count(value) {
  if (!isNumber(value)) return MISSING;
  /** @type {[string, number][]} */
  const units = [['G', 1e9], ['M', 1e6], ['k', 1e3]];
  const [unit, size] = units.find(([, least]) => value >= least) ?? ['', 1];
  return unit ? `${Number((value / size).toPrecision(3))} ${unit}` : String(value);
}

/**
 * 3555443 → "3.39 MiB"
 * @param {Maybe} value
 */
export function bytes(value) {
  if (!isNumber(value)) return MISSING;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${size} B` : `${Number(size.toPrecision(3))} ${units[unit]}`;
}

/**
 * The two largest units: 3725 s → "1 h 2 min".
 * @param {Maybe} seconds
 */
export function duration(seconds) {
  if (!isNumber(seconds) || seconds < 0) return MISSING;
  const rounded = Math.round(seconds);
  const days = Math.floor(rounded / 86400);
  const hours = Math.floor((rounded % 86400) / 3600);
  const minutes = Math.floor((rounded % 3600) / 60);
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  if (minutes >= 10) return `${minutes} min`;
  if (minutes > 0) return `${minutes} min ${rounded % 60} s`;
  return `${rounded} s`;
}

/**
 * The age of an RFC 3339 time at `now` (milliseconds). A time that lies slightly in the future is "just now".
 * @param {string} time
 * @param {number} now
 */
export function age(time, now) {
  const seconds = (now - Date.parse(time)) / 1000;
  if (!isNumber(seconds)) return MISSING;
  if (seconds < 5) return 'just now';
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}

/**
 * The same for a narrow column: "3 min", "2 d".
 * @param {string} time
 * @param {number} now
 */
export function shortAge(time, now) {
  const seconds = (now - Date.parse(time)) / 1000;
  if (!isNumber(seconds)) return MISSING;
  if (seconds < 60) return `${Math.max(Math.floor(seconds), 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/**
 * Percentage points with their sign: 1.234 → "+1.23", -0.5 → "−0.50".
 * @param {Maybe} value
 */
export function points(value) {
  if (!isNumber(value)) return MISSING;
  const text = Math.abs(value).toFixed(2);
  if (Number(text) === 0) return '0.00';
  return `${value < 0 ? '−' : '+'}${text}`;
}

export const NO_BASELINE = 'No job of a simpler method has succeeded with the same teacher, student, data set and training.';

/**
 * What a gain is measured against.
 * @param {Schemas['Baseline']} baseline
 */
export function comparedWith({ method, top1, deviation, jobs, copies }) {
  const value = isNumber(deviation) ? `${percent(top1)} ± ${deviation.toFixed(2)}, the mean of ${jobs} jobs` : `${percent(top1)}, one job`;
  const left = copies ? ` (${copies === 1 ? '1 copy' : `${copies} copies`} not counted)` : '';
  const shared = method === 'none' ? 'student, data set and training' : 'teacher, student, data set and training';
  return `Compared with ${method}: ${value}${left}, with the same ${shared} (the seed may differ).`;
}

/**
 * Why a queued job does not run yet, and when it will.
 * @param {Schemas['Waiting']} waiting
 */
export function waitingText({ reason, detail, position, starts_in_seconds: seconds }) {
  const place = isNumber(position) ? [`number ${position} in the queue`] : [];
  const start = isNumber(seconds) ? `about ${duration(seconds)}` : null;
  const starts = { teacher: start && `the teacher needs ${start} more`, backoff: start && `in ${start}`, start: null }[/** @type {string} */ (reason)];
  const turn = reason === 'turn' ? [start ? `starts in ${start}` : 'no estimate of its start yet'] : [];
  return [...place, detail, ...(starts ? [starts] : []), ...turn].join(' · ');
}

/**
 * The same for a narrow column: "#3 · 25 min".
 * @param {Schemas['Waiting']} waiting
 */
export function shortWaiting({ reason, position, starts_in_seconds: seconds }) {
  if (isNumber(position)) return isNumber(seconds) && seconds > 0 ? `#${position} · ${duration(seconds)}` : `#${position}`;
  const retry = isNumber(seconds) ? `retry: ${duration(seconds)}` : 'retry';
  return { teacher: 'for its teacher', backoff: retry, no_worker: 'no worker', version: 'old workers', devices: 'no worker fits', dataset: 'no data set', declined: 'no worker fits', sweep: 'for its sweep' }[/** @type {string} */ (reason)] ?? 'queued';
}

/**
 * How many attempts a job has had of those that it may have: "2 of 3, not counting 1". The server raises `max_attempts`
 * above what the specification says by one for each attempt that does not count.
 * @param {Pick<Schemas['Job'], 'attempt' | 'max_attempts' | 'spec' | 'status'>} job
 */
export function attemptsText({ attempt, max_attempts: most, spec, status }) {
  if (attempt === 0) return 'not started';
  // Nothing follows, and an attempt that was cancelled counts for nothing.
  if (status === 'cancelled') return String(attempt);
  const free = most - spec.max_attempts;
  return free > 0 ? `${Math.max(attempt - free, 0)} of ${spec.max_attempts}, not counting ${free}` : `${attempt} of ${most}`;
}

/**
 * 3411.7 → "3,412 images/s"
 * @param {Maybe} value
 */
export function rate(value) {
  if (!isNumber(value)) return MISSING;
  return `${value >= 100 ? whole(value) : value.toPrecision(2)} images/s`;
}

/**
 * The time of day, with the date unless it is that of `now`.
 * @param {string | number} time
 * @param {number} now
 */
export function clock(time, now) {
  const moment = new Date(time);
  if (Number.isNaN(moment.getTime())) return MISSING;
  const two = (/** @type {number} */ number) => String(number).padStart(2, '0');
  const ofDay = `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
  const sameDay = new Date(now).toDateString() === moment.toDateString();
  return sameDay ? ofDay : `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())} ${ofDay}`;
}

/**
 * The names of a job's networks: architectures, or those of exported networks.
 * @param {{ spec: Pick<Schemas['JobSpec'], 'teacher' | 'student'> } &
 *   Pick<Schemas['Job'], 'teacher_network' | 'student_network'>} job
 * @returns {{ teacher: string | null, student: string }}
 */
export function pairing({ spec: { teacher, student }, teacher_network: ofTeacher, student_network: ofStudent }) {
  return {
    teacher: teacher ? teacher.architecture ?? ofTeacher ?? 'student of a job' : null,
    student: student.architecture ?? ofStudent ?? 'exported network',
  };
}

/**
 * "resnet56 → resnet20", or the student alone.
 * @param {{ teacher?: string | null, student: string }} pair
 */
export function pairOf({ teacher, student }) {
  return teacher ? `${teacher} → ${student}` : student;
}

/**
 * Text as one word of a POSIX shell: `'it'\''s'`.
 * @param {string} text
 */
export function shellQuote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
