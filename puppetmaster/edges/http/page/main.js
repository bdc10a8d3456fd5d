/** The page: its top, its notices, and which view is shown. */

import { announce } from './announce.js';
import { whenLoginIsNeeded } from './api.js';
import { closeAll } from './dialog.js';
import { everySecond } from './clock.js';
import { fill, h, setText } from './dom.js';
import { troubles, watchHealth } from './health.js';
import { icon, mark } from './icons.js';
import { onConnection } from './live.js';
import { messagePlace, note, wordsOf } from './message.js';
import { go, here, link, start } from './router.js';
import { session } from './session.js';
import { themeButton } from './theme_button.js';
import { devicesView } from './views/devices.js';
import { jobView } from './views/job.js';
import { jobsView } from './views/jobs.js';
import { loginView } from './views/login.js';
import { missingView } from './views/missing.js';
import { newJobView } from './views/new_job.js';
import { requestView } from './views/request.js';

const RETRY = 3000; // milliseconds until the server is asked again, when it did not answer the first call

const main = /** @type {HTMLElement} */ (document.getElementById('main'));
const top = /** @type {HTMLElement} */ (document.getElementById('top'));
const foot = /** @type {HTMLElement} */ (document.getElementById('foot'));
const notices = /** @type {HTMLElement} */ (document.getElementById('notices'));

// The top

const jobsLink = h('a', { href: link('/jobs') }, 'Jobs');
const devicesLink = h('a', { href: link('/devices') }, 'Devices');
const newLink = h('a', { href: link('/new') }, 'New job');
const stream = h('span', { class: 'stream', data: { testid: 'stream' } });
const who = h('div', { class: 'who' });
const topMessage = messagePlace();

function buildTop() {
  fill(
    top,
    h(
      'a',
      { class: 'brand', href: link('/jobs'), 'aria-label': 'puppetmaster' },
      mark(),
      h('span', {}, 'puppetmaster'),
    ),
    h('nav', { 'aria-label': 'Main' }, jobsLink, devicesLink, newLink),
    h('div', { class: 'top-end' }, stream, themeButton(), who),
  );
  /** @type {HTMLElement} */ (document.getElementById('skip')).addEventListener('click', (event) => {
    event.preventDefault(); // the hash is the router's
    main.focus();
  });
}

function showAccount() {
  const account = session.account;
  top.classList.toggle('bare', account === null);
  jobsLink.hidden = devicesLink.hidden = account === null;
  newLink.hidden = !session.canWrite;
  const logOut = h('button', { type: 'button', class: 'button small quiet', on: { click: logOutNow } }, 'Log out');
  if (account?.name) {
    fill(
      who,
      h(
        'span',
        { class: 'who-name', title: `Logged in as ${account.name}, ${account.role}` },
        icon('user'),
        h('span', {}, account.name),
        h('span', { class: 'who-role' }, account.role),
      ),
      logOut,
    );
  } else {
    fill(who);
  }
}

async function logOutNow() {
  topMessage.clear();
  try {
    await session.logOut();
    announce('Logged out');
  } catch (error) {
    topMessage.error(error);
  }
}

function markCurrent() {
  const { path } = here();
  for (const [node, current] of /** @type {[Element, boolean][]} */ ([
    [jobsLink, path.startsWith('/jobs')],
    [devicesLink, path === '/devices'],
    [newLink, path === '/new'],
  ])) {
    if (current) node.setAttribute('aria-current', 'page');
    else node.removeAttribute('aria-current');
  }
}

// Notices

const awayText = h('span');
const tryNow = h('button', { type: 'button', class: 'button small' }, 'Try now');
const awayNote = note('warning', awayText, ' ', tryNow);
awayNote.hidden = true;
const healthPlace = h('div', { role: 'status' });

function buildNotices() {
  fill(notices, awayNote, healthPlace, topMessage.node);
  awayNote.dataset.testid = 'away';
}

function watchConnection() {
  /** @type {import('./live.js').Connection} */
  let now = { phase: 'none' };
  let awaySince = 0;
  const count = () => {
    const away = now.phase === 'away';
    // A blink is not worth a notice.
    awayNote.hidden = !(away && Date.now() - awaySince > 1200);
    if (!away) return;
    const seconds = Math.max(0, Math.ceil(((now.retryAt ?? 0) - Date.now()) / 1000));
    const next = seconds ? `Trying again in ${seconds} s.` : 'Trying again …';
    setText(awayText, `The connection is away, and what you see may be old. ${next}`);
  };
  tryNow.addEventListener('click', () => now.retry?.());
  everySecond(count);
  onConnection((next) => {
    if (next.phase === 'away' && now.phase !== 'away') {
      awaySince = Date.now();
      announce('The connection is away');
    }
    if (next.phase === 'open' && now.phase === 'away') announce('Connected again');
    now = next;
    stream.dataset.phase = next.phase;
    setText(stream, { none: '', connecting: 'Connecting', open: 'Live', away: 'Away' }[next.phase]);
    count();
  });
}

/** @param {import('./health.js').Health | null} health */
function showHealth(health) {
  if (health && foot.hidden) {
    foot.hidden = false;
    const instance = health.instance ? h('span', {}, `instance ${health.instance}`) : null;
    const docs = h('a', { href: 'docs' }, 'API');
    fill(foot, h('span', {}, `puppetmaster ${health.version ?? ''}`), instance, docs);
  }
  const found = health ? troubles(health) : [];
  if (healthPlace.textContent === found.join('')) return;
  fill(healthPlace, ...found.map((text) => note('warning', text)));
}

// Views

/** @type {import('./router.js').Route[]} */
const routes = [
  { pattern: /^\/login$/, make: (_match, query) => loginView(query) },
  { pattern: /^\/(?:jobs)?$/, make: (_match, query) => guarded(() => jobsView(query)) },
  { pattern: /^\/jobs\/(\d{1,16})$/, make: (match, query) => guarded(() => jobView(Number(match[1]), query)) },
  { pattern: /^\/requests\/(\d{1,16})$/, make: (match) => guarded(() => requestView(Number(match[1]))) },
  { pattern: /^\/devices$/, make: (_match, query) => guarded(() => devicesView(query)) },
  { pattern: /^\/new$/, make: (_match, query) => guarded(() => newJobView(query)) },
  {
    pattern: /^/,
    make: () => guarded(() => missingView('There is nothing here', 'The address leads to no view of this page.')),
  },
];

/**
 * A view for those who are logged in; others are led to the login, and from there back here.
 *
 * @param {() => import('./router.js').View} make
 */
function guarded(make) {
  if (session.account) return make();
  queueMicrotask(leadToLogin);
  return { node: h('div') };
}

function leadToLogin() {
  if (session.account || here().path === '/login') return;
  go(link('/login', { next: location.hash.slice(1) }), { replace: true });
}

async function begin() {
  buildTop();
  buildNotices();
  watchConnection();
  fill(main, h('p', { class: 'waiting', role: 'status' }, 'Connecting …'));
  for (;;) {
    try {
      await session.load();
      break;
    } catch (error) {
      fill(
        main,
        h(
          'div',
          { class: 'narrow' },
          h('h1', {}, 'Not connected'),
          note('error', wordsOf(error)),
          h('p', { class: 'hint' }, 'The page tries again every few seconds.'),
        ),
      );
      await new Promise((done) => setTimeout(done, RETRY));
    }
  }
  showAccount();
  whenLoginIsNeeded(() => session.ended());
  session.onChange(() => {
    closeAll();
    showAccount();
    if (session.account) return; // the login view goes on by itself
    leadToLogin();
  });
  start(main, routes, () => {
    closeAll();
    markCurrent();
  });
  watchHealth(showHealth);
}

void begin();
