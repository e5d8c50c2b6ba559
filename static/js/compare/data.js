// What several jobs have in common and where they differ. Pure.

/** What says nothing about how a student was trained. */
const NO_SETTING = ['name', 'labels', 'priority', 'max_attempts'];
/** In what jobs of one group may differ. */
const NO_GROUP = ['training.seed', 'training.checkpoint_every_epochs'];

/** Every leaf of a specification by its path: `training.optimizer.learning_rate`. Arrays are leaves. */
export function flatten(value, path = '', leaves = new Map()) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return leaves.set(path, value);
  for (const [key, member] of Object.entries(value)) {
    if (path === '' && NO_SETTING.includes(key)) continue;
    flatten(member, path ? `${path}.${key}` : key, leaves);
  }
  return leaves;
}

/** `[{path, values}]` of the settings that are not the same in all of these specifications; undefined where one has none. */
export function differences(specs) {
  const all = specs.map((spec) => flatten(spec));
  const paths = [...new Set(all.flatMap((leaves) => [...leaves.keys()]))];
  return paths.map((path) => ({ path, values: all.map((leaves) => leaves.get(path)) }))
    .filter(({ values }) => values.some((value) => JSON.stringify(value) !== JSON.stringify(values[0])));
}

/** A setting for people. */
export function settingText(value) {
  if (value === undefined) return '–';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** Groups of jobs that differ in nothing but their seed, in the order of their first ones. */
export function groupBySeed(jobs) {
  const groups = new Map();
  for (const job of jobs) {
    const leaves = flatten(job.spec);
    NO_GROUP.forEach((path) => leaves.delete(path));
    const key = JSON.stringify([...leaves].sort(([one], [other]) => (one < other ? -1 : 1)));
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(job);
  }
  return [...groups.values()];
}

/** What tells groups apart: the fewest settings that do, the method before others. A single group has the name of its first job. */
export function groupNames(groups) {
  let names = groups.map(() => []);
  const isTold = () => new Set(names.map(String)).size;
  for (const setting of byTelling(differences(groups.map(([job]) => job.spec)))) {
    if (isTold() === groups.length) break;
    const before = isTold();
    const shorter = names;
    names = names.map((parts, index) => (setting.values[index] === undefined ? parts : [...parts, named(setting.path, setting.values[index])]));
    if (isTold() === before) names = shorter;
  }
  return names.map((parts, index) => parts.join(', ') || groups[index][0].name);
}

/** The method first; and last what some have and others lack, as a teacher, which the method says. */
function byTelling(settings) {
  const rank = ({ path, values }) => (path === 'distillation.method' ? 0 : values.includes(undefined) ? 2 : 1);
  return settings.filter(({ path }) => !NO_GROUP.includes(path)).sort((one, other) => rank(one) - rank(other));
}

const named = (path, value) => (path === 'distillation.method' ? value : `${path.split('.').at(-1)} ${settingText(value)}`);

/** `{count, mean, deviation}` of the numbers among these; the deviation is that of a sample, and null of fewer than two. */
export function statistics(values) {
  const numbers = values.filter(Number.isFinite);
  const count = numbers.length;
  if (count === 0) return { count, mean: null, deviation: null };
  const mean = numbers.reduce((sum, value) => sum + value, 0) / count;
  const squares = numbers.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { count, mean, deviation: count > 1 ? Math.sqrt(squares / (count - 1)) : null };
}

/** The value at `x` of a curve of ascending `xs`, between its points; null outside of it. */
export function interpolate(xs, ys, x) {
  if (xs.length === 0 || x < xs[0] || x > xs.at(-1)) return null;
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

/** `{xs, mean, low, high}`: the mean of curves `[xs, ys]` and one standard deviation below and above it. */
export function meanCurve(curves) {
  const xs = [...new Set(curves.flatMap(([own]) => own))].sort((one, other) => one - other);
  const at = xs.map((x) => statistics(curves.map(([own, ys]) => interpolate(own, ys, x))));
  return {
    xs, mean: at.map(({ mean }) => mean),
    low: at.map(({ mean, deviation }) => (deviation === null ? mean : mean - deviation)),
    high: at.map(({ mean, deviation }) => (deviation === null ? mean : mean + deviation)),
  };
}

/** Round numbers, at most so many, that span a range: `[70, 72, 74]`. */
export function ticks(low, high, most = 6) {
  if (!(high > low)) return [low];
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => (high - low) / size <= most);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}
