// Round numbers for the ticks of axes. Pure.

const FACTORS = [1, 2, 5];

/**
 * Round numbers within a range, at most `limit` steps apart: `[70, 72, 74]`.
 * @param {number} low
 * @param {number} high
 */
export function ticks(low, high, limit = 6) {
  if (!(high > low)) return [low];
  const rough = (high - low) / limit;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = FACTORS.map((factor) => factor * power).find((size) => (high - low) / size <= limit) ?? 10 * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

/**
 * Round numbers within a range of a logarithmic axis: 1, 2 and 5 times the powers of ten; only powers if these are too
 * many; and equal steps where the range is too short for them.
 * @param {number} low positive
 * @param {number} high
 */
export function logTicks(low, high, limit = 8) {
  const first = Math.floor(Math.log10(low));
  const powers = Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, index) => first + index);
  const inside = (/** @type {number[]} */ values) => values.filter((value) => value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9));
  const rounded = (/** @type {number} */ power, factor = 1) => Number((factor * 10 ** power).toPrecision(12));
  const fine = inside(powers.flatMap((power) => FACTORS.map((factor) => rounded(power, factor))));
  if (fine.length < 3) return ticks(low, high, limit - 2).filter((value) => value > 0);
  if (fine.length <= limit) return fine;
  const coarse = inside(powers.map((power) => rounded(power)));
  const every = Math.ceil(coarse.length / limit);
  return coarse.filter((_, index) => index % every === 0);
}
