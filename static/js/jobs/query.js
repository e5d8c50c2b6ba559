// What a list of jobs shows, as its address says it. Pure.

/** The columns that the server can sort by, and the direction in which each is asked for first. */
export const FIRST_ORDER = {
  status: 'asc', name: 'asc', method: 'asc', pair: 'asc', progress: 'desc', best_top1: 'desc', gain: 'desc', eta: 'asc', worker: 'asc', created: 'desc',
};

export const PAGE_SIZES = [50, 100, 200];

/** `{statuses, labels, q, sort, order, page, size}` of the parameters of an address; what it cannot mean is left out. */
export function parseQuery(parameters) {
  const sort = Object.hasOwn(FIRST_ORDER, parameters.get('sort')) ? parameters.get('sort') : 'created';
  const order = ['asc', 'desc'].includes(parameters.get('order')) ? parameters.get('order') : FIRST_ORDER[sort];
  const size = Number(parameters.get('rows'));
  const page = Number(parameters.get('page'));
  return {
    statuses: parameters.getAll('status'), labels: parameters.getAll('label'), q: parameters.get('q') ?? '', sort, order,
    page: Number.isInteger(page) && page > 1 ? page : 1, size: PAGE_SIZES.includes(size) ? size : PAGE_SIZES[0],
  };
}

/** The address of a list: what is as usual is not mentioned. */
export function addressOf({ statuses, labels, q, sort, order, page, size }) {
  const parameters = new URLSearchParams();
  for (const status of statuses) parameters.append('status', status);
  for (const label of labels) parameters.append('label', label);
  if (q) parameters.set('q', q);
  if (sort !== 'created') parameters.set('sort', sort);
  if (order !== FIRST_ORDER[sort]) parameters.set('order', order);
  if (page > 1) parameters.set('page', page);
  if (size !== PAGE_SIZES[0]) parameters.set('rows', size);
  const text = parameters.toString();
  return text ? `#/?${text}` : '#/';
}

/** The list sorted by another column, or by the same one the other way round; from the start. */
export function sortedBy(query, sort) {
  const other = query.order === 'asc' ? 'desc' : 'asc';
  return { ...query, sort, order: sort === query.sort ? other : FIRST_ORDER[sort], page: 1 };
}

/** What `GET /v1/summaries` takes for it. */
export function requestOf({ statuses, labels, q, sort, order, page, size }) {
  return { status: statuses, label: labels, q: q.trim(), sort, order, offset: (page - 1) * size, limit: size };
}
