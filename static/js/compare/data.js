// What several jobs share and where they differ. Pure.

/** @typedef {[xs: number[], ys: number[]]} Points of a curve, by ascending x */
/** @typedef {Map<string, unknown>} Leaves values by path */
/** @typedef {{ path: string, values: unknown[] }} Setting its value in each job; undefined if a job has none */
/** @typedef {{ count: number, mean: number | null, deviation: number | null }} Statistics */

/** Fields that do not affect training. */
const NO_SETTINGS = ['name', 'labels', 'priority', 'max_attempts'];
/** Settings in which the jobs of a group may differ. */
const FREE_IN_GROUPS = ['training.seed', 'training.checkpoint_every_epochs'];

/**
 * The leaves of a specification by path, as `training.optimizer.learning_rate`. Arrays are leaves.
 * @param {unknown} value
 * @param {string} [path]
 * @param {Leaves} [leaves] to add to
 * @returns {Leaves}
 */
export function flatten(value, path = '', leaves = new Map()) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return leaves.set(path, value);
  for (const [key, member] of Object.entries(value)) {
    if (path === '' && NO_SETTINGS.includes(key)) continue;
    flatten(member, path ? `${path}.${key}` : key, leaves);
  }
  return leaves;
}

/**
 * The settings that are not the same in all specifications.
 * @param {object[]} specs
 * @returns {Setting[]}
 */
export function differences(specs) {
  const all = specs.map((spec) => flatten(spec));
  const paths = [...new Set(all.flatMap((leaves) => [...leaves.keys()]))];
  return paths.map((path) => ({ path, values: all.map((leaves) => leaves.get(path)) }))
    .filter(({ values }) => values.some((value) => JSON.stringify(value) !== JSON.stringify(values[0])));
}

/**
 * The value of a setting as text.
 * @param {unknown} value
 */
export function settingText(value) {
  if (value === undefined) return '–';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/**
 * Groups of jobs that differ only in their seed, in the order of their first jobs.
 * @template {{ spec: object }} Job
 * @param {Job[]} jobs
 */
export function groupBySeed(jobs) {
  /** @type {Map<string, Job[]>} */
  const groups = new Map();
  for (const job of jobs) {
    const leaves = flatten(job.spec);
    FREE_IN_GROUPS.forEach((path) => leaves.delete(path));
    const key = JSON.stringify([...leaves].sort(([one], [other]) => (one < other ? -1 : 1)));
    groups.set(key, [...(groups.get(key) ?? []), job]);
  }
  return [...groups.values()];
}

/**
 * The jobs of a group without copies: jobs with the same seed whose students have the same bytes are one run.
 * @template {{ spec: any, result?: any }} Job
 * @param {Job[]} jobs
 */
export function withoutCopies(jobs) {
  /** @type {Map<string, Job>} */
  const runs = new Map();
  jobs.forEach((job, index) => {
    const sha256 = job.result?.student?.sha256;
    const key = sha256 ? `${job.spec.training?.seed} ${sha256}` : String(index);
    if (!runs.has(key)) runs.set(key, job);
  });
  return [...runs.values()];
}

/**
 * `3 seeds`, or `4 runs of 3 seeds, 1 copy not counted`.
 * @param {{ spec: any, result?: any }[]} jobs of a group
 */
export function runsText(jobs) {
  const runs = withoutCopies(jobs);
  const seeds = new Set(runs.map(({ spec }) => spec.training?.seed)).size;
  const copies = jobs.length - runs.length;
  const some = (/** @type {number} */ count, /** @type {string} */ one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;
  const counted = runs.length === seeds ? some(seeds, 'seed') : `${some(runs.length, 'run')} of ${some(seeds, 'seed')}`;
  return copies ? `${counted}, ${some(copies, 'copy', 'copies')} not counted` : counted;
}

/**
 * A name for each group: the fewest settings that distinguish the groups, or the name of the only group's first job.
 * What the users wrote comes before what the server derived from it: the epochs name a group, and not its milestones.
 * @param {{ name: string, spec: object, sent?: object | null }[][]} groups `sent` is a job's specification as written
 */
export function groupNames(groups) {
  let names = groups.map(() => /** @type {string[]} */ ([]));
  const distinct = () => new Set(names.map(String)).size;
  const written = new Set(groups.flatMap(([job]) => (job.sent ? [...flatten(job.sent).keys()] : [])));
  for (const { path, values } of mostTelling(differences(groups.map(([job]) => job.spec)), written)) {
    const before = distinct();
    if (before === groups.length) break;
    const shorter = names;
    names = names.map((parts, index) => (values[index] === undefined ? parts : [...parts, named(path, values[index])]));
    if (distinct() === before) names = shorter;
  }
  return names.map((parts, index) => parts.join(', ') || groups[index][0].name);
}

/**
 * The method first, then what users wrote, then the rest; of these, what has the most values. Settings that some jobs
 * lack come last: the method usually implies them, as it does a teacher.
 * @param {Setting[]} settings
 * @param {Set<string>} written paths of settings that users wrote
 */
function mostTelling(settings, written) {
  const rank = (/** @type {Setting} */ { path, values }) => (path === 'distillation.method' ? 0
    : (values.includes(undefined) ? 2 : 1) + (written.has(path) ? 0 : 2));
  const variety = (/** @type {Setting} */ { values }) => new Set(values.map((value) => JSON.stringify(value))).size;
  return settings.filter(({ path }) => !FREE_IN_GROUPS.includes(path))
    .sort((one, other) => rank(one) - rank(other) || variety(other) - variety(one));
}

/**
 * @param {string} path
 * @param {unknown} value
 */
function named(path, value) {
  return path === 'distillation.method' ? settingText(value) : `${path.split('.').at(-1)} ${settingText(value)}`;
}

/**
 * Mean and standard deviation of the sample; no deviation for fewer than two numbers.
 * @param {(number | null | undefined)[]} values
 * @returns {Statistics}
 */
export function statistics(values) {
  const numbers = values.filter((value) => typeof value === 'number').filter(Number.isFinite);
  const count = numbers.length;
  if (count === 0) return { count, mean: null, deviation: null };
  const mean = numbers.reduce((sum, value) => sum + value, 0) / count;
  const squares = numbers.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { count, mean, deviation: count > 1 ? Math.sqrt(squares / (count - 1)) : null };
}

/**
 * The value of a curve at `x`, interpolated linearly; null outside the curve.
 * @param {number[]} xs ascending
 * @param {number[]} ys
 * @param {number} x
 */
export function interpolate(xs, ys, x) {
  if (xs.length === 0 || x < xs[0] || x > xs[xs.length - 1]) return null;
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  if (xs[high] <= x) return ys[high];
  const share = xs[high] === xs[low] ? 0 : (x - xs[low]) / (xs[high] - xs[low]);
  return ys[low] + share * (ys[high] - ys[low]);
}

/**
 * The mean of several curves, and one standard deviation below and above it.
 * @param {Points[]} curves
 */
export function meanCurve(curves) {
  const xs = [...new Set(curves.flatMap(([own]) => own))].sort((one, other) => one - other);
  const at = xs.map((x) => statistics(curves.map(([own, ys]) => interpolate(own, ys, x))));
  const offset = (/** @type {1 | -1} */ sign) => at.map(({ mean, deviation }) => (mean === null ? null : mean + sign * (deviation ?? 0)));
  return { xs, mean: at.map(({ mean }) => mean), low: offset(-1), high: offset(1) };
}
