// The only place that builds elements. Data of the server become text nodes or attribute values, never markup.

/** @typedef {Node | string | number | boolean | null | undefined | readonly Child[]} Child */
/** @typedef {string | number | boolean | null | undefined | ((event: any) => unknown)} AttributeValue */

/**
 * h('a', {href: '#/', class: 'brand'}, 'text', child, [more]). Leaves out children and attributes that are null,
 * undefined or false; `onclick` and the like add listeners.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, AttributeValue>} attributes
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  append(element, children);
  return element;
}

/**
 * @param {HTMLElement} element
 * @param {string} name
 * @param {AttributeValue} value
 */
function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (typeof value === 'function') element.addEventListener(name.slice(2), value);
  else if (name === 'value' && 'value' in element) element.value = value;
  else element.setAttribute(name, value === true ? '' : String(value));
}

/**
 * @param {Element} element
 * @param {readonly Child[]} children
 */
function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Replaces everything below `element`.
 * @template {Element} E
 * @param {E} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/**
 * Changes what is below `element`. A link there that has the focus gives it to the new one with its address.
 * @param {Element} element
 * @param {() => void} change
 */
export function keepFocus(element, change) {
  const { activeElement } = document;
  const address = activeElement && element.contains(activeElement) ? activeElement.getAttribute('href') : null;
  change();
  if (address === null || element.contains(document.activeElement)) return;
  [...element.querySelectorAll('a')].find((link) => link.getAttribute('href') === address)?.focus({ preventScroll: true });
}

/**
 * Replaces everything below `element`, which people may be using.
 * @param {Element} element
 * @param {...Child} children
 */
export function refill(element, ...children) {
  keepFocus(element, () => fill(element, ...children));
}

/**
 * Writes text only if it differs, so that a live page neither flickers nor loses a selection.
 * @param {Element} element
 * @param {string} [text]
 */
export function setText(element, text = '') {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Sets a style through the CSSOM, which a strict Content-Security-Policy allows.
 * @param {HTMLElement} element
 * @param {string} property
 * @param {string | number} value
 */
export function setStyle(element, property, value) {
  element.style.setProperty(property, String(value));
}

/**
 * A button that copies `text()`.
 * @param {() => string} text
 */
export function copyButton(text, label = 'Copy') {
  const button = h('button', { type: 'button', class: 'quiet copy', 'aria-live': 'polite' }, label);
  button.addEventListener('click', async () => {
    setText(button, (await copy(text())) ? 'Copied' : 'Not copied: select the text');
    setTimeout(() => setText(button, label), 2000);
  });
  return button;
}

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers offer the clipboard API only on https and localhost.
    const field = h('textarea', { class: 'visually-hidden', value: text });
    document.body.append(field);
    field.select();
    const done = document.execCommand('copy');
    field.remove();
    return done;
  }
}

/**
 * Asks in a modal dialog; resolves to whether the user agreed.
 * @param {Question} question
 * @returns {Promise<boolean>}
 */
export function ask({ title, detail, yes, no = 'Back', danger = false }) {
  return new Promise((resolve) => {
    const dialog = h('dialog', { 'aria-labelledby': 'ask-title' },
      h('form', { method: 'dialog' },
        h('h2', { id: 'ask-title' }, title),
        h('p', {}, detail),
        h('div', { class: 'actions' },
          h('button', { value: 'no', class: 'quiet', autofocus: true }, no),
          h('button', { value: 'yes', class: danger ? 'danger' : 'primary' }, yes))));
    // `close` fires a task later than the click. Resolving there could undo what the user typed in between.
    dialog.addEventListener('submit', (event) => resolve(event.submitter?.getAttribute('value') === 'yes'));
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(false);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * A progress bar, also for assistive technology. `update` takes a fraction; anything else means unknown.
 * @param {string} label
 */
export function progressBar(label) {
  const bar = h('div', { class: 'progress', role: 'progressbar', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': 100 },
    h('span', { class: 'progress-fill' }));
  return {
    element: bar,
    /** @param {number | null | undefined} fraction */
    update(fraction) {
      const isKnown = typeof fraction === 'number' && Number.isFinite(fraction);
      const share = isKnown ? Math.min(Math.max(fraction, 0), 1) : 0;
      setStyle(bar, '--share', share.toFixed(4));
      if (isKnown) bar.setAttribute('aria-valuenow', String(Math.round(share * 100)));
      else bar.removeAttribute('aria-valuenow');
    },
  };
}

/** The status of a job as a coloured word. */
export function statusBadge() {
  const element = h('span', { class: 'badge' });
  return {
    element,
    /** @param {string} status */
    update(status) {
      element.dataset.status = status;
      setText(element, status);
    },
  };
}

/** @type {WeakMap<Element, () => void>} */
const refreshers = new WeakMap();

/**
 * A `<time>` that shows an age; `refreshAges` brings it up to date.
 * @param {string} time
 * @param {(time: string) => string} format
 */
export function ageElement(time, format) {
  const element = h('time', { class: 'age', datetime: time, title: new Date(time).toLocaleString() }, format(time));
  refreshers.set(element, () => setText(element, format(time)));
  return element;
}

/**
 * Brings every age below `root` up to date.
 * @param {Element} root
 */
export function refreshAges(root) {
  for (const element of root.querySelectorAll('time.age')) refreshers.get(element)?.();
}

/**
 * An element of index.html.
 * @param {'main' | 'announcer' | 'sign-out' | 'connection' | 'connection-text' | 'lost' | 'skip'} id
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no element #${id}`);
  return element;
}
