/** What the devices said, grouped: "4,912 said 200 v2.1, 87 said 404". */

import { GivenUp, Unreachable, ask } from '../api.js';
import { arrange, fill, h, setText } from '../dom.js';
import { copyButton } from '../clipboard.js';
import { answerOf, ending, firstLine, headline } from '../command.js';
import { number, share } from '../format.js';
import { icon } from '../icons.js';
import { brief, print } from '../json_text.js';
import { messagePlace } from '../message.js';
import { Refresher } from '../refresher.js';
import { link } from '../router.js';
import { hasEnded } from '../states.js';
import { outcomeList, outputBlocks } from './command_answer.js';

/** @typedef {import('../states.js').Job} Job */

/**
 * @typedef {object} Group
 * @property {string} status
 * @property {number | null} code
 * @property {any} result
 * @property {boolean} cut
 * @property {number} count
 * @property {string[]} destinations
 */

const INTERVAL = 2500; // milliseconds
const MOST = 100; // groups that are asked for
const FIRST = 8; // groups that are shown at first,
const ALONE = 5; // but only so many where no two devices said the same

/** @param {number} id */
export function answersPanel(id) {
  return new AnswersPanel(id);
}

class AnswersPanel {
  /** @param {number} id */
  constructor(id) {
    this.id = id;
    this.place = messagePlace();
    this.list = h('ul', { class: 'answers' });
    this.empty = h('p', { class: 'quiet-words' }, 'No request has ended yet.');
    this.moreButton = h('button', {
      type: 'button',
      class: 'button small',
      hidden: true,
      on: { click: () => this.showAll() },
    });
    this.rest = h('p', { class: 'hint', hidden: true });
    this.node = h(
      'section',
      { class: 'card', 'aria-labelledby': 'answers-title', data: { testid: 'answers' } },
      h('h2', { id: 'answers-title' }, 'Answers'),
      this.place.node,
      this.empty,
      this.list,
      this.moreButton,
      this.rest,
    );
    /** @type {Map<string, ReturnType<typeof groupItem>>} */
    this.items = new Map();
    /** @type {Group[]} */
    this.groups = [];
    this.all = false;
    this.ended = '';
    this.doneCount = 0;
    this.missed = false;
    this.calls = new AbortController();
    this.refresher = new Refresher(() => this.load(), INTERVAL);
  }

  close() {
    this.refresher.close();
    this.calls.abort();
  }

  /** @param {Job} job */
  show(job) {
    const { resolved, error, timeout, canceled } = job.counts;
    const ended = [resolved, error, timeout, canceled].join(' ');
    if (ended === this.ended) return;
    this.ended = ended;
    this.doneCount = job.doneCount;
    if (!job.doneCount) return;
    // The last word is not waited for.
    if (hasEnded(job)) this.refresher.now();
    else this.refresher.want();
  }

  /** The connection is there again: what could not be asked for meanwhile is asked for now. */
  catchUp() {
    if (this.missed) this.refresher.now();
  }

  showAll() {
    this.all = !this.all;
    this.render();
  }

  async load() {
    try {
      this.groups = await ask('GET', `jobs/${this.id}/answers`, { query: { limit: MOST }, signal: this.calls.signal });
      this.missed = false;
      this.place.clear();
      this.render();
    } catch (error) {
      this.missed = error instanceof Unreachable;
      if (!(error instanceof GivenUp)) this.place.error(error);
    }
  }

  render() {
    this.empty.hidden = this.groups.length > 0;
    const first = Math.max(ALONE, Math.min(FIRST, this.groups.filter(({ count }) => count > 1).length));
    const shown = this.all ? this.groups : this.groups.slice(0, first);
    const keys = new Set();
    const nodes = shown.map((group) => {
      const key = keyOf(group);
      keys.add(key);
      let item = this.items.get(key);
      if (!item) {
        item = groupItem(this.id, group);
        this.items.set(key, item);
      }
      item.show(group, this.doneCount);
      return item.node;
    });
    for (const key of [...this.items.keys()]) if (!keys.has(key)) this.items.delete(key);
    arrange(this.list, nodes);
    const hidden = this.groups.length - first;
    this.moreButton.hidden = hidden <= 0;
    setText(this.moreButton, this.all ? 'Show fewer' : `Show ${hidden} more`);
    this.rest.hidden = !(this.all && this.groups.length >= MOST);
    setText(this.rest, `These are the ${MOST} most frequent ones.`);
  }
}

/**
 * What tells a group from others, for as long as it grows: of commands another run may come to stand for it.
 *
 * @param {Group} group
 */
function keyOf({ status, code, result, cut }) {
  const answer = answerOf(result, cut);
  const rest = answer
    ? [ending(answer).replace(/ after [\d.]+ s\b/, ''), answer.stdout, answer.stderr]
    : print(result);
  return JSON.stringify([status, code, rest]);
}

/**
 * @param {number} job
 * @param {Group} first
 */
function groupItem(job, first) {
  const count = h('span', { class: 'answer-count' });
  const part = h('span', { class: 'answer-share' });
  const meter = h('span', { class: 'answer-fill' });
  const examples = h('ul', { class: 'examples' });
  const more = h('a', { href: link(`/jobs/${job}`, { status: first.status }) });
  const text = first.cut ? String(first.result) : print(first.result);
  const nothing = first.result === null || first.result === undefined;
  const answer = answerOf(first.result, first.cut);
  const how = answer ? ending(answer) : said(first);
  const tools = (/** @type {import('../dom.js').Child[]} */ ...more) =>
    h('div', { class: 'json-tools' }, first.cut ? h('span', { class: 'hint' }, 'cut at 4 KiB') : null, ...more);

  const node = h(
    'li',
    { class: 'answer', data: { tone: first.status, status: first.status, code: first.code ?? '' } },
    h(
      'details',
      {},
      h(
        'summary',
        {},
        icon('chevron', 'turn'),
        count,
        h(
          'span',
          { class: 'answer-words' },
          h('span', { class: 'answer-status', data: { tone: first.status } }, icon(first.status), how),
          ' ',
          h('span', { class: 'answer-text' }, answer ? firstLine(answer) : words(first)),
        ),
        part,
        h('span', { class: 'answer-meter', 'aria-hidden': true }, meter),
      ),
      h(
        'div',
        { class: 'answer-more' },
        ...(answer ? [outcomeList(answer), ...outputBlocks(answer), first.cut ? tools() : null] : []),
        nothing || answer
          ? null
          : h(
              'div',
              { class: 'json' },
              h('pre', { role: 'group', tabindex: 0, 'aria-label': 'The answer as JSON' }, text),
              tools(copyButton(() => text)),
            ),
        h('div', {}, h('span', { class: 'small-title' }, 'Among them'), examples),
        h('p', {}, more),
      ),
    ),
  );
  let shown = '';
  return {
    node,
    /**
     * @param {Group} group
     * @param {number} done
     */
    show(group, done) {
      setText(count, number(group.count));
      setText(part, share(group.count, Math.max(done, group.count)));
      meter.style.setProperty('width', `${(100 * group.count) / Math.max(done, group.count)}%`);
      setText(more, `Show the requests that are ${group.status}`);
      if (shown === group.destinations.join('\n')) return;
      shown = group.destinations.join('\n');
      fill(
        examples,
        ...group.destinations.map((name) =>
          h(
            'li',
            {},
            h(
              'a',
              {
                class: 'mono',
                href: link(`/jobs/${job}`, { destination: name }),
                title: `Show the requests to ${name}`,
              },
              name,
            ),
          ),
        ),
      );
    },
  };
}

/** @param {Group} group */
function said({ status, code, count }) {
  if (code !== null && code !== undefined) return `said ${code}`;
  if (status === 'timeout') return 'did not answer in time';
  if (status === 'canceled') return count === 1 ? 'was canceled' : 'were canceled';
  return status;
}

/**
 * The answer in a few words. Of a failure the message is what is wanted.
 *
 * @param {{status: string, result: any, cut?: boolean}} answer
 */
export function words({ status, result, cut = false }) {
  if (result === null || result === undefined) return '';
  const answer = answerOf(result, cut);
  if (answer) return headline(answer);
  if (!cut && status !== 'resolved' && typeof result === 'object' && 'data' in result) {
    const data = result.data;
    if (data === null || data === undefined) return '';
    if (typeof data === 'object' && typeof data.message === 'string') return brief(data.message);
    return brief(data);
  }
  return brief(result);
}
