// Numbers, times and JSON for people. Pure: no DOM, no clock of its own.

const MISSING = '–';

/** 76.304 → "76.30 %" */
export function percent(value, digits = 2) {
  return Number.isFinite(value) ? `${value.toFixed(digits)} %` : MISSING;
}

/** 0.4567 → "45 %": rounded down, so that 100 % means done. */
export function share(fraction) {
  return Number.isFinite(fraction) ? `${Math.floor(Math.min(Math.max(fraction, 0), 1) * 100 + 1e-9)} %` : MISSING;
}

/** 1234567 → "1,234,567" */
export function whole(value) {
  return Number.isFinite(value) ? Math.round(value).toLocaleString('en-US') : MISSING;
}

/** Four significant digits, and powers of ten where zeros would hide them: 0.00001 → "1.000e-5". */
export function significant(value) {
  if (!Number.isFinite(value)) return MISSING;
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(3);
  if (size >= 1000) return value.toFixed(0);
  return value.toPrecision(4);
}

/** Short numbers for an axis: 0.0500 → "0.05". */
export function tick(value) {
  if (!Number.isFinite(value)) return '';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace('.0e', 'e');
  return String(Number(value.toPrecision(6)));
}

/** 3555443 → "3.56 M" */
export function count(value) {
  if (!Number.isFinite(value)) return MISSING;
  const [unit, size] = [['G', 1e9], ['M', 1e6], ['k', 1e3]].find(([, least]) => value >= least) ?? ['', 1];
  return unit ? `${Number((value / size).toPrecision(3))} ${unit}` : String(value);
}

/** 3555443 → "3.39 MiB" */
export function bytes(value) {
  if (!Number.isFinite(value)) return MISSING;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${size} B` : `${Number(size.toPrecision(3))} ${units[unit]}`;
}

/** 3725 s → "1 h 2 min": the two largest units. */
export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return MISSING;
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

/** How long before `now` (milliseconds) an RFC 3339 time was; a clock that is a little off never shows the future. */
export function age(time, now) {
  const seconds = (now - Date.parse(time)) / 1000;
  if (!Number.isFinite(seconds)) return MISSING;
  if (seconds < 5) return 'just now';
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}

/** The same for a narrow column: "3 min", "2 d". */
export function shortAge(time, now) {
  const seconds = (now - Date.parse(time)) / 1000;
  if (!Number.isFinite(seconds)) return MISSING;
  if (seconds < 60) return `${Math.max(Math.floor(seconds), 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** Percentage points with their sign: 1.234 → "+1.23", -0.5 → "−0.50". */
export function points(value) {
  if (!Number.isFinite(value)) return MISSING;
  const text = Math.abs(value).toFixed(2);
  if (Number(text) === 0) return '0.00';
  return `${value < 0 ? '−' : '+'}${text}`;
}

/** What a gain is above. */
export function comparedWith({ method, top1, deviation, jobs }) {
  const value = Number.isFinite(deviation) ? `${percent(top1)} ± ${deviation.toFixed(2)}, the mean of ${jobs} jobs` : `${percent(top1)}, one job`;
  const shared = method === 'none' ? 'student, data set and training' : 'teacher, student, data set and training';
  return `Compared with ${method}: ${value}, with the same ${shared} (the seed may differ).`;
}

/** 3411.7 → "3,412 images/s" */
export function rate(value) {
  if (!Number.isFinite(value)) return MISSING;
  return `${value >= 100 ? whole(value) : value.toPrecision(2)} images/s`;
}

/** Time of day for a log; with the date where it was not today. */
export function clock(time, now) {
  const moment = new Date(time);
  if (Number.isNaN(moment.getTime())) return MISSING;
  const two = (number) => String(number).padStart(2, '0');
  const ofDay = `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
  const sameDay = new Date(now).toDateString() === moment.toDateString();
  return sameDay ? ofDay : `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())} ${ofDay}`;
}

/** Indented JSON in which what fits on a line stays on one: [150, 180, 210]. */
export function prettyJson(value, width = 72) {
  return pretty(value, '', width);
}

function pretty(value, indent, width) {
  const flat = oneLine(value);
  if (value === null || typeof value !== 'object' || (flat.length + indent.length <= width && !nests(value))) return flat;
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    return `[\n${value.map((element) => inner + pretty(element, inner, width)).join(',\n')}\n${indent}]`;
  }
  const members = Object.entries(value).map(([key, member]) => `${inner}${JSON.stringify(key)}: ${pretty(member, inner, width)}`);
  return `{\n${members.join(',\n')}\n${indent}}`;
}

/** Objects of objects read better over several lines, however short. */
function nests(value) {
  return !Array.isArray(value) && Object.values(value).some((member) => member !== null && typeof member === 'object' && !Array.isArray(member));
}

function oneLine(value) {
  if (Array.isArray(value)) return `[${value.map(oneLine).join(', ')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value) ?? 'null';
  const members = Object.entries(value).map(([key, member]) => `${JSON.stringify(key)}: ${oneLine(member)}`);
  return members.length === 0 ? '{}' : `{${members.join(', ')}}`;
}

/** Who teaches whom, from a resolved specification. */
export function pairing(spec) {
  const student = spec?.student?.architecture ?? '?';
  if (!spec?.teacher) return { teacher: null, student };
  return { teacher: spec.teacher.architecture ?? 'student of a job', student };
}

/** The same from a summary: "resnet56 → resnet20". */
export function pairOf({ teacher, student }) {
  return teacher ? `${teacher} → ${student}` : student;
}

/** `'it''s'` for a POSIX shell. */
export function shellQuote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
