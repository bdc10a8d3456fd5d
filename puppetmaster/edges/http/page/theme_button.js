/** The button that chooses the colours: those of the system, light, dark. */

import { fill, h, setAttribute } from './dom.js';
import { icon } from './icons.js';

const KEY = 'puppetmaster.theme';
const CHOICES = /** @type {const} */ (['system', 'light', 'dark']);

function chosen() {
  const theme = document.documentElement.dataset.theme;
  return theme === 'light' || theme === 'dark' ? theme : 'system';
}

/** @param {'system' | 'light' | 'dark'} choice */
function choose(choice) {
  if (choice === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  try {
    if (choice === 'system') localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, choice);
  } catch {
    // Then it lasts as long as the page.
  }
}

export function themeButton() {
  const button = h('button', {
    type: 'button',
    class: 'button small quiet icon-only',
    on: {
      click: () => {
        choose(CHOICES[(CHOICES.indexOf(chosen()) + 1) % CHOICES.length]);
        show();
      },
    },
  });
  const show = () => {
    const choice = chosen();
    fill(button, icon(choice));
    const label = `Colours: ${choice === 'system' ? 'as the system' : choice}`;
    setAttribute(button, 'aria-label', label);
    setAttribute(button, 'title', label);
  };
  show();
  return button;
}
