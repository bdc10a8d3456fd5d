/** What can be done with a job: pause, resume, cancel, run again, change its limits, remove. */

import { announce } from '../announce.js';
import { GivenUp, Refused, ask as call, freshKey } from '../api.js';
import { ask } from '../dialog.js';
import { fill, freshId, h, setAttribute, setText } from '../dom.js';
import { counted, number } from '../format.js';
import { icon } from '../icons.js';
import { messagePlace, note } from '../message.js';
import { go, link } from '../router.js';
import { session } from '../session.js';
import { hasEnded, isUnmade, titleInside } from '../states.js';

/** @typedef {import('../states.js').Job} Job */

/** @param {(job: Job) => void} onChanged called with what the server answered */
export function actionBar(onChanged) {
  return new ActionBar(onChanged);
}

class ActionBar {
  /** @param {(job: Job) => void} onChanged */
  constructor(onChanged) {
    this.onChanged = onChanged;
    /** @type {Job | null} */
    this.job = null;
    this.place = messagePlace();
    this.message = this.place.node;
    const button = (
      /** @type {string} */ name,
      /** @type {string} */ drawing,
      /** @type {() => void} */ work,
      tone = '',
    ) =>
      h(
        'button',
        { type: 'button', class: `button ${tone}`.trim(), hidden: true, on: { click: work } },
        icon(drawing),
        name,
      );
    this.buttons = {
      pause: button('Pause', 'paused', () => this.steer('paused')),
      resume: button('Resume', 'dispatching', () => this.steer('dispatching'), 'primary'),
      start: button('Start now', 'dispatching', () => this.steer('dispatching'), 'primary'),
      rerun: button('Run the failed again', 'again', () => rerun(this.current())),
      limits: button('Change limits', 'sliders', () => changeLimits(this.current(), onChanged)),
      cancel: button('Cancel job', 'canceled', () => cancel(this.current(), onChanged), 'danger'),
      remove: button('Remove', 'trash', () => remove(this.current()), 'danger'),
    };
    this.node = h(
      'div',
      { class: 'actions', role: 'group', 'aria-label': 'What to do with this job' },
      ...(session.canWrite
        ? Object.values(this.buttons)
        : [h('p', { class: 'hint' }, 'You are logged in as a viewer: you can look, but not steer.')]),
    );
  }

  current() {
    return /** @type {Job} */ (this.job);
  }

  /** @param {Job} job */
  show(job) {
    this.job = job;
    const { pause, resume, start, rerun: again, limits, cancel: stop, remove: drop } = this.buttons;
    const ended = hasEnded(job);
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    pause.hidden = !(job.status === 'dispatching' || job.status === 'pending');
    resume.hidden = job.status !== 'paused';
    start.hidden = job.status !== 'pending';
    limits.hidden = ended;
    stop.hidden = ended;
    drop.hidden = !ended;
    const { error, timeout, canceled } = job.counts;
    again.hidden = !(error + timeout + (ended ? canceled : 0));
    // Pause became Resume: whoever stood on the one stands on the other.
    if (focused?.hidden && this.node.contains(focused))
      Object.values(this.buttons)
        .find((one) => !one.hidden)
        ?.focus();
  }

  /** @param {'paused' | 'dispatching'} status */
  async steer(status) {
    this.place.clear();
    try {
      this.onChanged(await call('PUT', `jobs/${this.current().id}`, { body: { status } }));
    } catch (error) {
      this.place.error(error);
    }
  }
}

/**
 * @param {Job} job
 * @param {(job: Job) => void} onChanged
 */
function cancel(job, onChanged) {
  const open = job.totalCount - job.doneCount;
  const out = job.counts.sent + job.counts.running;
  const already = `${number(out)} of them ${out === 1 ? 'is' : 'are'}`;
  ask({
    title: `Cancel ${titleInside(job)}?`,
    content: [
      h(
        'p',
        {},
        isUnmade(job)
          ? 'It has no requests yet, and will get none. A canceled job can’t be resumed.'
          : `${counted(open, 'request')} ${open === 1 ? 'has' : 'have'} not ended. A canceled job can’t be resumed.`,
      ),
      out ? h('p', {}, `${already} out already: those devices may do the work all the same.`) : null,
    ],
    action: 'Cancel the job',
    back: 'Let it run',
    danger: true,
    work: async () => onChanged(await call('PUT', `jobs/${job.id}`, { body: { status: 'canceled' } })),
  });
}

/** @param {Job} job */
function remove(job) {
  ask({
    title: `Remove ${titleInside(job)}?`,
    content: [
      h(
        'p',
        {},
        `The job and its ${counted(job.totalCount, 'request')} with all answers will be gone. This can’t be undone.`,
      ),
    ],
    action: 'Remove the job',
    back: 'Keep it',
    danger: true,
    work: async () => {
      try {
        await call('DELETE', `jobs/${job.id}`);
      } catch (error) {
        // Somebody else was faster.
        if (!(error instanceof Refused && error.code === 404)) throw error;
      }
      announce(`${titleInside(job)} was removed`);
      go(link('/jobs'));
    },
  });
}

/**
 * Run requests again as a new job. How many that are is asked of the server, with a dry run.
 *
 * @param {Job} job
 */
function rerun(job) {
  // A second press of the button is the same wish; another choice is another one.
  let key = freshKey();
  const statuses = ['error', 'timeout', 'canceled'].filter((status) => job.counts[status]);
  const boxes = statuses.map((status) => {
    const id = freshId('rerun');
    const box = h('input', { type: 'checkbox', id, checked: status !== 'canceled', on: { change: () => changed() } });
    return {
      status,
      box,
      node: h(
        'div',
        { class: 'check' },
        box,
        h(
          'label',
          { for: id },
          icon(status),
          h('span', {}, status),
          h('span', { class: 'number' }, number(job.counts[status])),
        ),
      ),
    };
  });
  // A job that was called off has nothing else to run again.
  if (!boxes.some(({ box }) => box.checked)) for (const { box } of boxes) box.checked = true;
  const chosen = () => boxes.filter(({ box }) => box.checked).map(({ status }) => status);
  const says = h('p', { class: 'rerun-preview', role: 'status', data: { testid: 'rerun-preview' } });

  const { dialog, place, doIt } = ask({
    title: 'Run the failed requests again',
    content: [
      h('p', {}, 'A new job is made of these requests, with the same messages and limits.'),
      h(
        'fieldset',
        { class: 'checks' },
        h('legend', { class: 'unseen' }, 'Which requests'),
        ...boxes.map(({ node }) => node),
      ),
      says,
    ],
    action: 'Run again',
    work: async () => {
      if (!chosen().length) throw new Error('Choose which requests to run again.');
      const made = await call('POST', `jobs/${job.id}/rerun`, { body: { status: chosen() }, key });
      go(link(`/jobs/${made.id}`));
    },
  });

  function changed() {
    key = freshKey();
    void preview();
  }

  let calls = new AbortController();
  async function preview() {
    calls.abort();
    calls = new AbortController();
    place.clear();
    if (!chosen().length) {
      setText(says, 'No request is chosen.');
      return;
    }
    setText(says, 'Counting …');
    try {
      const counts = await call('POST', `jobs/${job.id}/rerun`, {
        body: { status: chosen(), dryRun: true },
        signal: calls.signal,
      });
      fill(
        says,
        'This makes ',
        h('strong', {}, counted(counts.totalCount, 'request')),
        ` to ${counted(counts.destinationCount, 'destination')}.`,
      );
    } catch (error) {
      if (error instanceof GivenUp) return;
      setText(says, '');
      place.error(error);
    }
  }
  dialog.addEventListener('close', () => calls.abort());
  doIt.focus();
  void preview();
}

/**
 * @param {Job} job
 * @param {(job: Job) => void} onChanged
 */
function changeLimits(job, onChanged) {
  const fields = /** @type {const} */ ([
    ['priority', 'Priority', '0 to 100; a higher one sends first', job.priority],
    ['concurrency', 'Concurrency', 'requests out at once; empty: no limit of its own', job.concurrency],
    ['rate', 'Rate', 'requests a minute; empty: no limit', job.rate?.perMinute ?? null],
    ['timeout', 'Timeout', 'seconds for the whole job; empty: none', job.timeout],
  ]).map(([name, label, hint, value]) => {
    const id = freshId(name);
    const input = h('input', {
      id,
      type: 'number',
      min: name === 'priority' ? 0 : 1,
      step: 'any',
      'aria-describedby': `${id}-hint ${id}-fault`,
      value: value === null ? '' : String(value),
    });
    const fault = h('p', { class: 'fault', id: `${id}-fault` });
    return {
      name,
      value,
      input,
      fault,
      node: h(
        'div',
        { class: 'field' },
        h('label', { for: id }, label),
        input,
        h('p', { class: 'hint', id: `${id}-hint` }, hint),
        fault,
      ),
    };
  });
  const growing = job.rate && job.rate.factor !== 1;

  ask({
    title: 'Change limits',
    content: [
      h('div', { class: 'pairs' }, ...fields.map(({ node }) => node)),
      growing ? note('plain', 'This job’s rate grows. A rate that is changed here stays as it is given.') : null,
    ],
    action: 'Change',
    work: async () => {
      /** @type {Record<string, unknown>} */
      const body = {};
      let bad = null;
      for (const { name, value, input, fault } of fields) {
        setText(fault, input.validity.badInput ? 'Write a number.' : '');
        if (input.validity.badInput) bad ??= input;
        const next = input.value === '' ? null : Number(input.value);
        if (next !== value) body[name] = name === 'rate' && next !== null ? { perMinute: next } : next;
      }
      if (bad) {
        bad.focus();
        throw new Error('That is no number.');
      }
      if (!Object.keys(body).length) return;
      try {
        onChanged(await call('PUT', `jobs/${job.id}`, { body }));
      } catch (error) {
        throw marked(error, fields) ? new GivenUp() : error;
      }
    },
  });
}

/**
 * Show the server's faults at their fields, and lead to the first; whether all of them could be shown there.
 *
 * @param {unknown} error
 * @param {{name: string, input: HTMLInputElement, fault: Element}[]} fields
 */
function marked(error, fields) {
  if (!(error instanceof Refused) || !error.faults.length) return false;
  const left = new Set(error.faults);
  let first = null;
  for (const { name, input, fault } of fields) {
    const found = error.faults.filter(({ path }) => path === name || path.startsWith(`${name}.`));
    for (const one of found) left.delete(one);
    setText(fault, found[0]?.message ?? '');
    setAttribute(input, 'aria-invalid', found.length ? 'true' : null);
    if (found.length) first ??= input;
  }
  first?.focus();
  return left.size === 0;
}
