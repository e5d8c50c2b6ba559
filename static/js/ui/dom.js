// The only way to build elements here. Server data become text nodes or attribute values, never markup.

/** h('a', {href: '#/', class: 'brand'}, 'text', child, [more]): falsy children and null attributes are left out. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) setAttribute(element, name, value);
  append(element, children);
  return element;
}

function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (typeof value === 'function' && name.startsWith('on')) element.addEventListener(name.slice(2), value);
  else if (name === 'value') element.value = value;
  else element.setAttribute(name, value === true ? '' : String(value));
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Replaces everything below `element`. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** Writes text only where it changes, so that a live page neither flickers nor loses a selection. */
export function setText(element, text) {
  const wanted = text ?? '';
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Goes through the CSSOM, which a strict Content-Security-Policy allows. */
export function setStyle(element, property, value) {
  element.style.setProperty(property, String(value));
}

/** A button that copies `text()` and says so. */
export function copyButton(text, label = 'Copy') {
  const button = h('button', { type: 'button', class: 'quiet copy', 'aria-live': 'polite' }, label);
  button.addEventListener('click', async () => {
    setText(button, (await copy(text())) ? 'Copied' : 'Select and copy by hand');
    setTimeout(() => setText(button, label), 2000);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard API outside https and localhost.
    const field = h('textarea', { class: 'visually-hidden', value: text });
    document.body.append(field);
    field.select();
    const done = document.execCommand('copy');
    field.remove();
    return done;
  }
}

/** Asks in a modal dialog; resolves to whether the answer was yes. */
export function ask({ title, detail, yes, no = 'Back', danger = false }) {
  const { promise, resolve } = withResolvers();
  const dialog = h('dialog', { 'aria-labelledby': 'ask-title' },
    h('form', { method: 'dialog' },
      h('h2', { id: 'ask-title' }, title),
      h('p', {}, detail),
      h('div', { class: 'actions' },
        h('button', { value: 'no', class: 'quiet', autofocus: true }, no),
        h('button', { value: 'yes', class: danger ? 'danger' : 'primary' }, yes))));
  // With the click, not with the event of closing, which comes a task later: what was agreed to must not undo what
  // was typed in between.
  dialog.addEventListener('submit', (event) => resolve(event.submitter.value === 'yes'));
  dialog.addEventListener('close', () => {
    dialog.remove();
    resolve(false);
  });
  document.body.append(dialog);
  dialog.showModal();
  return promise;
}

function withResolvers() {
  let resolve;
  const promise = new Promise((done) => { resolve = done; });
  return { promise, resolve };
}

/** A bar with its value for assistive technology; `update` takes a fraction or null. */
export function progressBar(label) {
  const bar = h('div', { class: 'progress', role: 'progressbar', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': 100 },
    h('span', { class: 'progress-fill' }));
  return {
    element: bar,
    update(fraction) {
      const known = Number.isFinite(fraction);
      const share = known ? Math.min(Math.max(fraction, 0), 1) : 0;
      setStyle(bar, '--share', share.toFixed(4));
      if (known) bar.setAttribute('aria-valuenow', String(Math.round(share * 100)));
      else bar.removeAttribute('aria-valuenow');
    },
  };
}

/** The status of a job as a coloured word. */
export function statusBadge() {
  const element = h('span', { class: 'badge' });
  return {
    element,
    update(status) {
      element.dataset.status = status;
      setText(element, status);
    },
  };
}

/** `<time>` that shows how long ago it was; refreshed by `refreshAges`. */
export function ageElement(time, format) {
  const element = h('time', { class: 'age', datetime: time, title: new Date(time).toLocaleString() }, format(time));
  element.refresh = () => setText(element, format(time));
  return element;
}

/** Brings every age below `root` up to date. */
export function refreshAges(root) {
  for (const element of root.querySelectorAll('time.age')) element.refresh?.();
}
