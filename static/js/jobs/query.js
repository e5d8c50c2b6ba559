// What the list of jobs shows, as its address says. Pure.

/**
 * @typedef {object} ListQuery
 * @property {string[]} statuses
 * @property {string[]} labels as `key:value`
 * @property {string[]} columns JSON pointers of settings that have a column
 * @property {string} q searched text
 * @property {string} sort
 * @property {string} order `asc` or `desc`
 * @property {number} page from 1
 * @property {number} size rows per page
 */

/**
 * The columns that the server sorts by, with the order of the first click on each.
 * @type {Record<string, 'asc' | 'desc'>}
 */
export const FIRST_ORDER = {
  status: 'asc', name: 'asc', method: 'asc', pair: 'asc', progress: 'desc', best_top1: 'desc', gain: 'desc', eta: 'asc', worker: 'asc', created: 'desc',
};

export const PAGE_SIZES = [50, 100, 200];
/** What `GET /v1/summaries` accepts is more, and does not fit a screen. */
export const MAX_COLUMNS = 8;
const DEFAULT_SORT = 'created';

/**
 * Invalid parameters count as missing.
 * @param {URLSearchParams} parameters
 * @returns {ListQuery}
 */
export function parseQuery(parameters) {
  const wantedSort = parameters.get('sort') ?? '';
  const sort = Object.hasOwn(FIRST_ORDER, wantedSort) ? wantedSort : DEFAULT_SORT;
  const wantedOrder = parameters.get('order') ?? '';
  const order = ['asc', 'desc'].includes(wantedOrder) ? wantedOrder : FIRST_ORDER[sort];
  const size = Number(parameters.get('rows'));
  const page = Number(parameters.get('page'));
  return {
    statuses: parameters.getAll('status'), labels: parameters.getAll('label'),
    columns: [...new Set(parameters.getAll('column'))].filter((pointer) => /^(\/[^/]+)+$/.test(pointer)).slice(0, MAX_COLUMNS), q: parameters.get('q') ?? '', sort, order,
    page: Number.isInteger(page) && page > 1 ? page : 1, size: PAGE_SIZES.includes(size) ? size : PAGE_SIZES[0],
  };
}

/**
 * The address of a list; defaults are left out.
 * @param {ListQuery} query
 */
export function addressOf({ statuses, labels, columns, q, sort, order, page, size }) {
  const parameters = new URLSearchParams();
  for (const status of statuses) parameters.append('status', status);
  for (const label of labels) parameters.append('label', label);
  for (const column of columns) parameters.append('column', column);
  if (q) parameters.set('q', q);
  if (sort !== DEFAULT_SORT) parameters.set('sort', sort);
  if (order !== FIRST_ORDER[sort]) parameters.set('order', order);
  if (page > 1) parameters.set('page', String(page));
  if (size !== PAGE_SIZES[0]) parameters.set('rows', String(size));
  const text = parameters.toString();
  return text ? `#/?${text}` : '#/';
}

/**
 * The first page of the list sorted by another column, or by the same one in the other order.
 * @param {ListQuery} query
 * @param {string} sort
 * @returns {ListQuery}
 */
export function sortedBy(query, sort) {
  const reversed = query.order === 'asc' ? 'desc' : 'asc';
  return { ...query, sort, order: sort === query.sort ? reversed : FIRST_ORDER[sort], page: 1 };
}

/**
 * The parameters of `GET /v1/summaries` for a list.
 * @param {ListQuery} query
 */
export function requestOf({ statuses, labels, columns, q, sort, order, page, size }) {
  return { status: statuses, label: labels, column: columns, q: q.trim(), sort, order, offset: (page - 1) * size, limit: size };
}
