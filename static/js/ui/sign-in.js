// Asks for a token. The server keeps it in a cookie that scripts cannot read; it never appears in an address.

import { api } from '../api/client.js';
import { fill, h, setText } from './dom.js';

/**
 * @param {HTMLElement} root
 * @param {() => void} onSignedIn
 */
export function signInPage(root, onSignedIn) {
  const token = h('input', {
    type: 'password', id: 'token', required: true, autocomplete: 'current-password', spellcheck: 'false',
    pattern: '[!-~]+', title: 'printable ASCII characters without spaces', 'aria-describedby': 'token-help',
  });
  const send = h('button', { class: 'primary' }, 'Sign in');
  const message = h('p', { class: 'error-text', role: 'alert' });
  const form = h('form', { class: 'card sign-in' },
    h('h1', {}, 'Sign in'),
    h('label', { for: 'token' }, 'Token', token),
    h('p', { class: 'note', id: 'token-help' }, 'The operator of this server creates tokens with ', h('code', {}, 'distillery token create NAME --scope submit')),
    h('div', { class: 'actions' }, send), message);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    send.disabled = true;
    setText(message, '');
    try {
      await api.signIn(token.value);
      onSignedIn();
    } catch (error) {
      setText(message, error.status === 401 ? 'This token is not valid.' : error.message);
      send.disabled = false;
      token.select();
    }
  });
  fill(root, form);
  token.focus();
}
