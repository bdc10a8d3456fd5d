/** Dialogs: the browser's own, which keep the focus inside and give it back. */

import { freshId, h } from './dom.js';
import { messagePlace } from './message.js';

/**
 * @typedef {object} Asked
 * @property {string} title
 * @property {import('./dom.js').Child[]} [content]
 * @property {string} action what the button that does it says
 * @property {string} [back] what the other one says
 * @property {boolean} [danger]
 * @property {() => Promise<void>} work does it; the dialog closes when it has gone well, and else tells the error
 */

/**
 * Ask before something is done.
 *
 * @param {Asked} asked
 */
export function ask({ title, content = [], action, back = 'Go back', danger = false, work }) {
  const place = messagePlace();
  const doIt = h('button', { type: 'submit', class: danger ? 'button danger-full' : 'button primary' }, action);
  const dialog = frame(
    title,
    [...content, place.node],
    [h('button', { type: 'button', class: 'button', on: { click: () => dialog.close() } }, back), doIt],
    async (event) => {
      event.preventDefault();
      if (doIt.getAttribute('aria-disabled') === 'true') return;
      doIt.setAttribute('aria-disabled', 'true');
      place.clear();
      try {
        await work();
        dialog.close();
      } catch (error) {
        place.error(error);
      } finally {
        doIt.removeAttribute('aria-disabled');
      }
    },
  );
  return { dialog, place, doIt };
}

/**
 * Show something that needs room of its own.
 *
 * @param {string} title
 * @param {import('./dom.js').Child[]} content
 * @param {HTMLElement[]} [buttons]
 */
export function show(title, content, buttons = []) {
  const dialog = frame(
    title,
    content,
    [...buttons, h('button', { type: 'submit', class: 'button primary' }, 'Close')],
    (event) => {
      event.preventDefault();
      dialog.close();
    },
  );
  return dialog;
}

/**
 * @param {string} title
 * @param {import('./dom.js').Child[]} content
 * @param {HTMLElement[]} buttons
 * @param {(event: Event) => void} onSubmit
 */
function frame(title, content, buttons, onSubmit) {
  const heading = freshId('dialog');
  const dialog = h(
    'dialog',
    { class: 'dialog', 'aria-labelledby': heading },
    h(
      'form',
      { method: 'dialog', novalidate: true, on: { submit: onSubmit } },
      h('h2', { id: heading }, title),
      h('div', { class: 'dialog-body' }, ...content),
      h('div', { class: 'dialog-buttons' }, ...buttons),
    ),
  );
  // The element that had the focus gets it back; the browser does that for a modal dialog. What was done may have hidden
  // it, as Cancel is in a job that is canceled: then what stands beside it gets the focus.
  const { activeElement: before } = document;
  dialog.addEventListener('close', () => {
    dialog.remove();
    if (document.activeElement === document.body)
      /** @type {HTMLElement | null | undefined} */ (
        before?.parentElement?.querySelector('button:not([hidden])')
      )?.focus();
  });
  // A press that began and ended on the backdrop closes it, as everywhere.
  let pressed = false;
  dialog.addEventListener('mousedown', (event) => {
    pressed = event.target === dialog;
  });
  dialog.addEventListener('click', (event) => {
    if (pressed && event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A view goes away: what it asked goes with it. */
export function closeAll() {
  for (const dialog of document.querySelectorAll('dialog[open]')) /** @type {HTMLDialogElement} */ (dialog).close();
}
