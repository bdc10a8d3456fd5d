/** What a command prints, while it prints it: server-sent events, for as long as somebody looks. */

import { address } from '../api.js';
import { shown } from '../command.js';
import { h, oncePerFrame, setText } from '../dom.js';
import { number } from '../format.js';
import { rawLink } from './command_answer.js';

const LINES = 2_000; // that are kept; the link leads to all
const CHARACTERS = 500_000; // of them, for a line may be of any length
const BETWEEN = 100; // milliseconds between two times of drawing
const STREAMS = 3; // at once: a browser opens no more than six connections to one host, and the page needs some

/** @typedef {{stream: string, text: string, lines: number, node: HTMLElement | null}} Piece */

/** Those that listen, the longest first. @type {Set<LiveOutput>} */
const listening = new Set();

/** @param {number} id of the request */
export const liveOutput = (id) => new LiveOutput(id);

class LiveOutput {
  /** @param {number} id */
  constructor(id) {
    this.id = id;
    this.next = 0;
    /** @type {Piece[]} */
    this.pieces = [];
    this.lines = 0;
    this.size = 0;
    this.dropped = 0;
    this.isOver = false;
    this.atEnd = true;
    /** @type {EventSource | null} */
    this.source = null;
    this.draw = oncePerFrame(() => this.drawNow(), BETWEEN);
    this.pre = h('pre', {
      class: 'output',
      role: 'group',
      tabindex: 0,
      'aria-label': 'Output',
      data: { testid: 'live-output' },
      hidden: true,
      on: { scroll: () => this.scrolled() },
    });
    this.words = h('span', { class: 'hint' }, 'Nothing printed yet.');
    this.again = h(
      'button',
      { type: 'button', class: 'button small', hidden: true, on: { click: () => this.listen() } },
      'Go on listening',
    );
    this.node = h(
      'div',
      { class: 'json live-output' },
      this.pre,
      h('div', { class: 'json-tools output-tools' }, this.words, this.again, rawLink(id, 'Output as a file')),
    );
    this.listen();
  }

  /** Nobody looks any more. */
  close() {
    this.silence();
    this.isOver = true;
  }

  /** It stands in its place again: what was taken out of the document has lost where it was scrolled to. */
  settle() {
    if (this.atEnd) this.pre.scrollTop = this.pre.scrollHeight;
  }

  listen() {
    if (this.source || this.isOver) return;
    if (listening.size >= STREAMS) [...listening][0].pause('Other output is listened to meanwhile.');
    listening.add(this);
    this.again.hidden = true;
    this.tell('');
    const source = new EventSource(address(`requests/${this.id}/output/events`, { start: this.next || null }));
    this.source = source;
    source.addEventListener('chunk', (event) => this.take(event.data));
    source.addEventListener('over', () => {
      this.close();
      this.tell(this.pieces.length ? '' : 'It printed nothing.');
    });
    source.onerror = () => {
      // A connection that broke comes back by itself; one that was refused does not.
      if (source.readyState === EventSource.CLOSED) this.pause('The output can’t be had now.');
      else this.tell('The connection is away; the output goes on when it is back.');
    };
    source.onopen = () => this.tell('');
  }

  silence() {
    this.source?.close();
    this.source = null;
    listening.delete(this);
  }

  /** @param {string} why */
  pause(why) {
    this.silence();
    this.tell(why);
    this.again.hidden = false;
  }

  /** @param {string} words what there is to say, if anything */
  tell(words) {
    const above = this.dropped ? `The last ${number(LINES)} lines at most; ${number(this.dropped)} stood above.` : '';
    setText(this.words, words || above || (this.pieces.length ? '' : 'Nothing printed yet.'));
  }

  /** @param {string} data a chunk */
  take(data) {
    let chunk;
    try {
      chunk = JSON.parse(data);
    } catch {
      return; // not ours
    }
    if (chunk.number < this.next || chunk.stream === 'end') return;
    this.next = chunk.number + 1;
    if (chunk.stream === 'cut') this.put('cut', `[${number(chunk.bytes ?? 0)} bytes are left out here]\n`);
    else this.put(chunk.stream, shown(textOf(chunk)));
    this.draw();
  }

  /**
   * @param {string} stream
   * @param {string} text
   */
  put(stream, text) {
    if (!text) return;
    const lines = linesOf(text);
    this.pieces.push({ stream, text, lines, node: null });
    this.lines += lines;
    this.size += text.length;
    while (this.lines > LINES || this.size > CHARACTERS) this.shorten();
  }

  /** Let go of what is too much at the beginning: whole pieces, and of the last of them up to the end of a line. */
  shorten() {
    const [first] = this.pieces;
    const lines = Math.max(0, this.lines - LINES);
    const size = Math.max(0, this.size - CHARACTERS);
    let cut = first.text.length;
    if (first.lines >= lines && cut > size) {
      cut = 0;
      for (let left = lines; left > 0; left -= 1) cut = first.text.indexOf('\n', cut) + 1;
      cut = Math.max(cut, size);
    }
    const gone = linesOf(first.text.slice(0, cut));
    first.text = first.text.slice(cut);
    first.lines -= gone;
    this.size -= cut;
    this.lines -= gone;
    this.dropped += gone;
    if (first.node) setText(first.node, first.text);
    if (first.text) return;
    first.node?.remove();
    this.pieces.shift();
  }

  drawNow() {
    for (const piece of this.pieces) {
      if (piece.node) continue;
      piece.node = h('span', { data: { stream: piece.stream } }, piece.text);
      this.pre.append(piece.node);
    }
    this.pre.hidden = !this.pieces.length;
    if (this.source) this.tell('');
    this.settle();
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.pre;
    this.atEnd = scrollTop + clientHeight > scrollHeight - 8;
  }
}

/** @param {string} text */
function linesOf(text) {
  let count = 0;
  for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', at + 1)) count += 1;
  return count;
}

/** @param {{text?: string, base64?: string}} chunk */
function textOf({ text, base64 }) {
  if (typeof text === 'string') return text;
  if (typeof base64 !== 'string') return '';
  return new TextDecoder().decode(Uint8Array.from(atob(base64), (char) => char.charCodeAt(0)));
}
