// Which settings were best: succeeded jobs pooled by what they have in common, as a table and as parallel coordinates.

import { followChanges } from '../api/changes.js';
import { api, isRefusal, paths } from '../api/client.js';
import { Poller } from '../api/poller.js';
import { csv, save } from '../charts/export.js';
import { Combobox } from '../ui/combobox.js';
import { commandLine, curl, learnAboutTokens } from '../ui/commands.js';
import { setAnswered, setConnection } from '../ui/connection.js';
import { fill, h, refill, setText } from '../ui/dom.js';
import { isNumber, percent, points, whole } from '../ui/format.js';
import { listAddress } from '../ui/places.js';
import { scrollBox, section } from '../ui/section.js';
import { gainSign, isWithin, shortNames, shortValue } from '../ui/settings.js';
import { MAX_KEYS, groupsAddress, groupsCsv, groupsRequest, mixedNote, parseGroups } from './data.js';
import { settingOptions } from './options.js';
import { ParallelCoordinates } from './parallel.js';

/** @import { GroupQuery } from './data.js' */
/** @typedef {Schemas['Group']} Group */

const INTERVAL = 5000;
/** What jobs can be grouped by beside settings and labels. */
const NAMES = ['method', 'teacher', 'student', 'dataset', 'sweep'];
const MAX_LABELS = 100;
/** Longest value in a tool tip, in characters. */
const LONGEST_TITLE = 1000;

/**
 * @param {PageContext} context
 * @returns {PageView}
 */
export function groupsPage(context) {
  return new GroupsPage(context);
}

class GroupsPage {
  /** @type {Group[]} */
  #groups = [];
  /** What the table shows, to build it only when it changes: up to 200 rows, and other jobs change all the time. */
  #shown = '';

  /** @param {PageContext} context */
  constructor({ root, query, signal }) {
    this.query = parseGroups(query);
    this.note = h('p', { class: 'note', role: 'status' }, 'Loading…');
    this.keys = h('div', { class: 'filters', role: 'group', 'aria-label': 'Grouped by' });
    this.filters = h('div', { class: 'filters', hidden: true });
    this.picker = new Combobox({
      label: 'Group by', none: 'Nothing matches.', signal,
      find: (text, stop) => this.#findKeys(text, stop), onPick: (key) => this.#go({ by: [...this.query.by, key] }),
    });
    this.search = h('input', { type: 'search', class: 'search', placeholder: 'Search', 'aria-label': 'Only jobs with these words', maxlength: 200 });
    this.search.addEventListener('change', () => this.#go({ q: this.search.value }));
    this.table = scrollBox('Groups, table', { class: 'table-scroll' });
    this.parallel = new ParallelCoordinates(signal);
    this.command = h('div', {});
    const csvButton = h('button', { type: 'button', class: 'quiet copy', title: 'Download the table', onclick: () => this.#save() }, 'CSV');
    this.body = h('div', { class: 'compare groups', hidden: true }, h('h2', { class: 'visually-hidden' }, 'Chart'), this.parallel.element, section('Groups', { actions: csvButton }, this.table));
    fill(root,
      h('div', { class: 'heading' }, h('h1', {}, 'Best settings'), h('div', { class: 'actions' }, h('a', { class: 'button quiet', href: listAddress() }, 'Jobs'))),
      h('div', { class: 'list-tools' }, this.keys, this.picker.element, this.search), this.filters, this.note, this.body,
      section('By curl', {}, this.command));
    this.poller = new Poller({
      interval: INTERVAL, signal,
      request: async (stop) => {
        const found = await api.groups(groupsRequest(this.query), stop);
        setAnswered(true);
        this.#show(found);
      },
      onError: (error) => {
        setText(this.note, error.message);
        setAnswered(isRefusal(error));
        // What another address found is no answer to this one.
        if (isRefusal(error)) this.body.hidden = true;
      },
    });
    this.update(query);
    learnAboutTokens(signal).then(() => this.#showCommand());
    followChanges({ onChange: () => this.poller.soon(), onState: setConnection, signal });
  }

  /** @param {URLSearchParams} parameters */
  update(parameters) {
    this.query = parseGroups(parameters);
    const { by, labels, q, sweep } = this.query;
    if (document.activeElement !== this.search) this.search.value = q;
    const names = shortNames(by);
    // Without any, the method is the default.
    const removable = by.length > 1 || by[0] !== 'method';
    fill(this.keys, by.map((key, index) => (removable
      ? h('a', { href: this.#address({ by: by.filter((other) => other !== key) }), title: key, 'aria-label': `Do not group by ${key}` }, names[index], ' ×')
      : h('span', { class: 'label', title: key }, names[index]))));
    const without = (/** @type {Partial<GroupQuery>} */ change, /** @type {string} */ text) =>
      h('a', { href: this.#address(change), title: 'Remove this filter', 'aria-label': `Remove the filter ${text}` }, text, ' ×');
    this.filters.hidden = labels.length === 0 && !sweep;
    fill(this.filters, labels.map((label) => without({ labels: labels.filter((other) => other !== label) }, label)), sweep ? without({ sweep: '' }, `sweep ${sweep}`) : null);
    this.#showCommand();
    this.poller.now();
  }

  #showCommand() {
    fill(this.command, commandLine(curl(paths.groups(groupsRequest(this.query)))));
  }

  /** @param {Partial<GroupQuery>} change */
  #address(change) {
    return groupsAddress({ ...this.query, ...change });
  }

  /** @param {Partial<GroupQuery>} change */
  #go(change) {
    location.hash = this.#address(change);
  }

  /**
   * Names, labels and settings that jobs are not grouped by yet.
   * @param {string} text
   * @param {AbortSignal} stop
   */
  async #findKeys(text, stop) {
    if (this.query.by.length >= MAX_KEYS) throw new Error(`Jobs can be grouped by at most ${MAX_KEYS} properties. Remove one first.`);
    // What is typed narrows the labels on the server, too: there may be thousands.
    const q = text.replace(/^label:/i, '').trim();
    const [settings, labels] = await Promise.all([settingOptions(text, stop), api.labels({ q, limit: MAX_LABELS }, stop)]);
    const keys = [...new Set(labels.data.map(({ key }) => `label:${key}`))];
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const others = [...NAMES, ...keys].filter((name) => words.every((word) => name.toLowerCase().includes(word)));
    return [...others.map((name) => ({ value: name, text: name })), ...settings].filter(({ value }) => !this.query.by.includes(value));
  }

  /** @param {Schemas['Groups']} found */
  #show({ data, total }) {
    this.#groups = data;
    const left = total - data.length;
    const none = 'No matching job has succeeded yet.';
    const cut = left > 0 ? `The first ${whole(data.length)} of ${whole(total)} groups: narrow the search, or group by fewer properties.` : '';
    setText(this.note, data.length === 0 ? none : [cut, mixedNote(data)].filter(Boolean).join(' '));
    this.body.hidden = data.length === 0;
    const shown = JSON.stringify([this.query, data]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    refill(this.table, this.#tableOf(data));
    this.parallel.show(this.query.by, data);
  }

  /** @param {Group[]} groups */
  #tableOf(groups) {
    const { by, sort, order } = this.query;
    const heading = (/** @type {string} */ key, /** @type {string} */ name, /** @type {string} */ title) => h('th', {
      scope: 'col', class: 'number', title, 'aria-sort': sort === key ? (order === 'asc' ? 'ascending' : 'descending') : null,
    }, h('a', { href: this.#address({ sort: key, order: sort === key && order === 'desc' ? 'asc' : 'desc' }) }, name));
    const head = h('tr', {},
      shortNames(by).map((name, index) => h('th', { scope: 'col', title: by[index] }, name)),
      heading('top1', 'Top-1', 'Mean of the best top-1 of each job'), heading('deviation', '± Deviation', 'Standard deviation of the sample'),
      heading('n', 'n', 'Jobs without copies'), heading('best', 'Best', 'The best of them'),
      heading('gain', 'Gain', 'Mean of the jobs’ gains over their baselines; grey within the baseline’s deviation'), h('th', { scope: 'col' }, 'Jobs'));
    return h('table', {}, h('thead', {}, head), h('tbody', {}, groups.map((group) => row(by, group))));
  }

  #save() {
    save('groups.csv', 'text/csv', csv(groupsCsv(this.query.by, this.#groups)));
  }
}

/**
 * @param {string[]} by
 * @param {Group} group
 */
function row(by, { values, top1, deviation, n, copies, best, datasets, gain, baseline_deviation: ofBaseline, jobs }) {
  const number = (/** @type {string} */ text, more = {}) => h('td', { class: 'number', ...more }, text);
  const title = isWithin(gain, ofBaseline) ? `Within the baseline’s deviation of ${ofBaseline?.toFixed(2)}` : null;
  const sign = isNumber(gain) ? gainSign(gain, ofBaseline) : '';
  return h('tr', {},
    values.map((value, index) => h('td', { class: 'setting', title: text(value, LONGEST_TITLE) }, by[index] === 'sweep' && typeof value === 'string' ? h('a', { href: `#/sweeps/${encodeURIComponent(value)}` }, value) : text(value))),
    number(percent(top1)), number(isNumber(deviation) ? deviation.toFixed(2) : '–'),
    number(datasets > 1 ? `${n} on ${datasets} data sets` : String(n), { title: copies ? `${copies} copies not counted` : null }), number(percent(best)),
    h('td', { class: 'number' }, h('span', { class: 'gain', 'data-sign': sign, title }, isNumber(gain) ? points(gain) : '–')),
    h('td', {}, h('a', { href: `#/compare?${jobs.map((job) => `job=${encodeURIComponent(job)}`).join('&')}&seeds=1` }, 'Compare')));
}

/**
 * @param {unknown} value
 * @param {number} [longest] in characters
 */
function text(value, longest) {
  return value === null || value === undefined ? '–' : shortValue(value, longest);
}
