/** The form that makes a job: what it would make is asked of the server while it is filled in. */

import { announce } from '../announce.js';
import { GivenUp, Refused, Unreachable, address, ask, freshKey } from '../api.js';
import { copyButton } from '../clipboard.js';
import { lines } from '../destinations.js';
import { show } from '../dialog.js';
import { debounced, fill, h, setText } from '../dom.js';
import { dropDraft, keepDraft, readDraft } from '../drafts.js';
import { counted, number } from '../format.js';
import { icon } from '../icons.js';
import { LONGEST_ARGUMENT, asCurl, asDryRun, build, faultWords, fieldOf, fieldsOf } from '../job_form.js';
import { faultOf, print, read } from '../json_text.js';
import { messagePlace, note } from '../message.js';
import { go, link } from '../router.js';
import { session } from '../session.js';
import { GROUPS, formField } from './form_fields.js';
import { missingView } from './missing.js';

/** @typedef {import('../job_form.js').NamedFile} NamedFile */

const PAUSE = 350; // milliseconds without a keystroke before the server is asked
const LONG_PAUSE = 1200; // the same for a document that takes a while
const LONG = 200_000; // characters of such a document
const LARGEST = 16 * 1024 * 1024; // bytes of a body, as on the server

const BEYOND =
  'The form can’t show this document: it has several messages, or something that the form has no field for. ' +
  'It can be submitted as JSON.';

const NEEDED = /** @type {Record<string, string>} */ ({
  resource: 'A resource is needed, such as /system/reboot',
  commandLine: 'A command line is needed, such as df -h /',
  destinations: 'At least one destination is needed',
});

const WORDS = /** @type {Record<string, string>} */ ({ resource: 'a resource', commandLine: 'a command line' });

/**
 * @param {URLSearchParams} query `label` and `connection` of the devices that it is for
 * @returns {import('../router.js').View}
 */
export function newJobView(query) {
  if (!session.canWrite)
    return missingView('New job', 'You are logged in as a viewer: you can look, but not start jobs. An operator can.');
  return new NewJobView(query).view();
}

class NewJobView {
  /** @param {URLSearchParams} query */
  constructor(query) {
    document.title = 'New job – puppetmaster';
    const draft = readDraft();
    this.key = typeof draft?.key === 'string' ? draft.key : freshKey();
    /** @type {NamedFile[]} */
    this.files = Array.isArray(draft?.files) ? draft.files : [];
    /** @type {'form' | 'json'} */
    this.mode = draft?.mode === 'json' ? 'json' : 'form';
    this.busy = false;
    this.calls = new AbortController();
    /** @type {Map<string, import('./form_fields.js').Field>} */
    this.fields = new Map();
    /** What the server found wrong, by field, until that field is changed. @type {Map<string, string>} */
    this.refused = new Map();
    this.preview = debounced(() => void this.look(), PAUSE);
    this.previewLate = debounced(() => void this.look(), LONG_PAUSE);
    this.keep = debounced(() => this.keepDraft(), 400);
    this.parts = this.build();
    this.node = this.parts.node;
    this.json = this.parts.json;
    this.place = this.parts.place;
    const targets = targetsIn(query);
    if (targets) this.mode = 'form';
    this.setValues({ method: 'post', ...draft?.values, ...targets });
    if (typeof draft?.json === 'string') this.json.value = draft.json;
    this.showMode();
    this.renderFiles();
    this.changed();
  }

  view() {
    return { node: this.node, update() {}, close: () => this.close() };
  }

  close() {
    this.preview.cancel();
    this.previewLate.cancel();
    this.keep.cancel();
    if (!this.done) this.keepDraft();
    this.calls.abort();
  }

  // What it consists of

  build() {
    const place = messagePlace();
    const form = this.buildForm();
    const document_ = this.buildJson();
    const preview = this.buildPreview(place.node);
    const formTab = h('button', { type: 'button', class: 'tab', on: { click: () => this.toForm() } }, 'Form');
    const jsonTab = h('button', { type: 'button', class: 'tab', on: { click: () => this.toJson() } }, 'JSON');
    const node = h(
      'div',
      { class: 'view' },
      h(
        'div',
        { class: 'view-head' },
        h('h1', { tabindex: -1 }, 'New job'),
        h('div', { class: 'tabs', role: 'group', 'aria-label': 'How to write it' }, formTab, jsonTab),
      ),
      h(
        'form',
        { class: 'new-job', novalidate: true, on: { submit: (/** @type {Event} */ event) => void this.submit(event) } },
        h('div', {}, form.formPart, document_.jsonPart),
        preview.aside,
      ),
    );
    node.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) void this.submit(event);
    });
    return { node, place, formTab, jsonTab, ...form, ...document_, ...preview };
  }

  buildForm() {
    const counter = h('span', { class: 'hint', data: { testid: 'destination-count' } });
    const fileList = h('div', { class: 'files' });
    // Out of sight and of reach: the button beside it opens it.
    const fileInput = h('input', {
      type: 'file',
      hidden: true,
      multiple: true,
      accept: '.txt,.csv,.list,text/plain',
      on: { change: () => void this.addFiles() },
    });
    const fileButton = h(
      'button',
      {
        type: 'button',
        class: 'button small',
        title: 'A text file with one destination on each line, taken as it is',
        on: { click: () => fileInput.click() },
      },
      icon('file'),
      'Add a file',
    );
    const hint = h(
      'p',
      { class: 'hint' },
      'One on each line or with commas; ',
      h('code', {}, 'device-[0001-0050]'),
      ' stands for 50 names.',
    );
    const below = h('div', { class: 'below' }, counter, fileButton, fileInput);
    const one = (/** @type {string} */ name, /** @type {import('../dom.js').Child[]} */ ...more) =>
      this.addField(name, ...more).node;
    // In the order in which they stand: the first fault is the one that the focus is led to.
    const message = h(
      'fieldset',
      { class: 'card' },
      h('legend', {}, 'Message'),
      one('kind'),
      h('div', { class: 'message-line' }, one('method'), one('resource')),
      one('data'),
      one('commandLine'),
    );
    const where = h(
      'fieldset',
      { class: 'card' },
      h('legend', {}, 'Where to'),
      one('destinations', hint, below, fileList),
      h('p', { class: 'small-title' }, 'And devices by what is known of them'),
      h('div', { class: 'pairs two' }, one('targetLabels'), one('targetConnection'), one('sample'), one('offline')),
    );
    const about = h('div', { class: 'pairs' }, one('name'), one('labels'));
    const options = h(
      'details',
      { class: 'options' },
      h('summary', {}, icon('chevron', 'turn'), 'Limits, start time, retry'),
      ...GROUPS.map(([title, names]) =>
        h('fieldset', {}, h('legend', {}, title), h('div', { class: 'pairs' }, ...names.map((name) => one(name)))),
      ),
    );
    const formPart = h(
      'div',
      { class: 'form-part' },
      message,
      where,
      h('fieldset', { class: 'card' }, h('legend', {}, 'About the job'), about, options),
    );
    return { formPart, message, counter, fileList, fileInput, fileButton, options };
  }

  /**
   * @param {string} name
   * @param {...import('../dom.js').Child} below
   */
  addField(name, ...below) {
    const field = formField(name, ...below);
    field.control.addEventListener('input', () => {
      this.refused.delete(name); // what the server said was about what stood there before
      this.changed();
    });
    this.fields.set(name, field);
    return field;
  }

  buildJson() {
    const json = h('textarea', {
      id: 'job-json',
      class: 'mono json-edit',
      rows: 26,
      spellcheck: 'false',
      autocomplete: 'off',
      'aria-describedby': 'job-json-fault job-json-hint',
      on: { input: () => this.changed() },
    });
    const jsonFault = h('p', { class: 'fault', id: 'job-json-fault' });
    const hint =
      'All spellings of POST /jobs are understood: batch, collection, or destinations and message. ' +
      'With batch a job may have several messages.';
    const jsonPart = h(
      'div',
      { class: 'form-part' },
      h(
        'div',
        { class: 'card field' },
        h('label', { for: 'job-json' }, 'Job document'),
        json,
        jsonFault,
        h('p', { class: 'hint', id: 'job-json-hint' }, hint),
      ),
    );
    return { json, jsonFault, jsonPart };
  }

  /** @param {Element} place */
  buildPreview(place) {
    const says = h('div', { class: 'preview-words', role: 'status', data: { testid: 'preview' } });
    const faultList = h('ul', { class: 'preview-faults' });
    const submitButton = h('button', { type: 'submit', class: 'button primary wide' }, 'Create job');
    const curl = h(
      'button',
      { type: 'button', class: 'button small', on: { click: () => this.showCurl() } },
      'As curl',
    );
    const clear = h(
      'button',
      { type: 'button', class: 'button small quiet', on: { click: () => this.clear() } },
      'Clear the form',
    );
    const aside = h(
      'aside',
      { class: 'card preview', 'aria-label': 'Preview' },
      h('h2', {}, 'What this makes'),
      says,
      faultList,
      place,
      submitButton,
      h('div', { class: 'preview-tools' }, curl, clear),
    );
    return { aside, says, faultList, submitButton };
  }

  showMode() {
    const { formPart, jsonPart, formTab, jsonTab } = this.parts;
    formPart.hidden = this.mode !== 'form';
    jsonPart.hidden = this.mode !== 'json';
    formTab.setAttribute('aria-pressed', String(this.mode === 'form'));
    jsonTab.setAttribute('aria-pressed', String(this.mode === 'json'));
  }

  toJson() {
    if (this.mode === 'json') return;
    const { document } = this.read();
    if (!document) {
      this.place.say('Mend the fields that are marked first: they can’t be written as JSON.');
      this.focusFault();
      return;
    }
    this.json.value = print(document, 80);
    this.mode = 'json';
    this.showMode();
    this.changed();
  }

  toForm() {
    if (this.mode === 'form') return;
    const fault = faultOf(this.json.value);
    const found = fault ? null : fieldsOf(read(this.json.value));
    if (!found) {
      this.place.say(fault ? 'This is no JSON yet, so the form can’t show it.' : BEYOND);
      return;
    }
    this.files = found.files;
    this.setValues(found.values);
    this.renderFiles();
    this.mode = 'form';
    this.showMode();
    this.changed();
  }

  // Values

  /** @param {Record<string, string>} values */
  setValues(values) {
    for (const [name, { control }] of this.fields) control.value = values[name] ?? (name === 'method' ? 'post' : '');
    if (GROUPS.some(([, names]) => names.some((name) => values[name]))) this.parts.options.open = true;
  }

  values() {
    return Object.fromEntries([...this.fields].map(([name, { control }]) => [name, control.value]));
  }

  read() {
    const unreadable = new Set(
      [...this.fields].filter(([, { control }]) => control.validity.badInput).map(([name]) => name),
    );
    return build(this.values(), this.files, unreadable);
  }

  keepDraft() {
    const empty =
      this.mode === 'form' &&
      !this.files.length &&
      Object.entries(this.values()).every(([name, value]) => name === 'method' || !value);
    if (empty) dropDraft();
    else
      keepDraft({
        key: this.key,
        mode: this.mode,
        values: this.values(),
        files: this.files,
        json: this.mode === 'json' ? this.json.value : undefined,
      });
  }

  clear() {
    this.key = freshKey();
    this.files = [];
    this.refused.clear();
    fill(this.parts.faultList);
    this.setValues({});
    this.json.value = '';
    this.mode = 'form';
    this.showMode();
    this.renderFiles();
    this.changed();
    dropDraft();
    this.fields.get('resource')?.control.focus();
  }

  async addFiles() {
    const { fileInput } = this.parts;
    const chosen = [...(fileInput.files ?? [])];
    fileInput.value = ''; // so that the same file can be chosen again
    for (const file of chosen) {
      const found = await readLines(file);
      if (typeof found === 'string') this.place.say(found);
      else this.files.push({ name: file.name, lines: found });
    }
    this.renderFiles();
    this.changed();
  }

  renderFiles() {
    const leaveOut = (/** @type {NamedFile} */ file) => {
      this.files = this.files.filter((other) => other !== file);
      this.renderFiles();
      this.changed();
      this.parts.fileButton.focus();
    };
    const token = (/** @type {NamedFile} */ file) =>
      h(
        'button',
        {
          type: 'button',
          class: 'token',
          'aria-label': `Leave out the file ${file.name}`,
          on: { click: () => leaveOut(file) },
        },
        icon('file'),
        h('span', {}, file.name),
        h('span', { class: 'hint' }, counted(file.lines.length, 'line')),
        icon('close'),
      );
    fill(this.parts.fileList, ...this.files.map(token));
  }

  // Preview

  /** Something was typed. */
  changed() {
    this.calls.abort();
    this.place.clear();
    this.parts.message.dataset.kind = this.fields.get('kind')?.control.value || 'message';
    this.keep();
    this.preview.cancel();
    this.previewLate.cancel();
    const body = this.body();
    if (body === null) return;
    if (body.length > LONG) this.previewLate();
    else this.preview();
  }

  /**
   * The body as it stands, or null, and then the preview says why. Faults that the page finds itself are told at once.
   *
   * @returns {string | null}
   */
  body() {
    this.missing = null;
    if (this.mode === 'json') return this.jsonBody();
    const { document, faults, missing, destinations } = this.read();
    this.document = document;
    const repeated = destinations.repeated ? `, ${counted(destinations.repeated, 'repetition')} left out` : '';
    setText(this.parts.counter, destinations.count ? counted(destinations.count, 'destination') + repeated : '');
    for (const [name, field] of this.fields) field.setFault(faults.get(name) ?? this.refused.get(name) ?? '');
    if (faults.size) {
      this.say(`${counted(faults.size, 'field')} ${faults.size === 1 ? 'needs' : 'need'} mending.`, 'warning');
      return null;
    }
    if (missing.length) {
      this.missing = missing;
      const wanted = missing.map((name) => WORDS[name] ?? name).join(' and ');
      this.say(`Give ${wanted} to see how many requests this makes.`, 'plain');
      return null;
    }
    return print(document, 80);
  }

  jsonBody() {
    const text = this.json.value;
    this.document = null;
    if (!text.trim()) {
      this.missing = ['json'];
      this.say('Write a job document to see how many requests it makes.', 'plain');
      return null;
    }
    const fault = faultOf(text);
    const found = fault ? null : read(text);
    let words = '';
    if (fault) words = `Line ${fault.line}, column ${fault.column}: ${fault.message}`;
    else if (found === null || typeof found !== 'object' || Array.isArray(found))
      words = 'A job document is a JSON object: { … }';
    else if ('dryRun' in found) words = 'Leave out dryRun: this preview is the dry run.';
    setText(this.parts.jsonFault, words);
    this.json.removeAttribute('aria-invalid');
    if (words) {
      this.json.setAttribute('aria-invalid', 'true');
      this.say('The document needs mending.', 'warning');
      return null;
    }
    this.document = found;
    return text;
  }

  /** Ask the server what this would make. */
  async look() {
    const text = this.body();
    if (text === null) return;
    this.calls.abort();
    this.calls = new AbortController();
    const { signal } = this.calls;
    try {
      const counts = await ask('POST', 'jobs', { text: asDryRun(text), signal });
      this.showFaults(null);
      this.sayCounts(counts);
    } catch (error) {
      if (error instanceof GivenUp) return;
      if (error instanceof Refused && error.code !== 401) this.showFaults(error);
      else this.say(error instanceof Error ? error.message : '', 'warning');
    }
  }

  /**
   * @param {string} words
   * @param {'good' | 'plain' | 'warning'} tone
   * @param {...import('../dom.js').Child} content in the place of the words alone
   */
  say(words, tone, ...content) {
    const place = this.parts.says;
    place.dataset.tone = tone;
    // What stands there already is not read aloud again.
    if (place.textContent !== words) fill(place, h('span', {}, ...(content.length ? content : [words])));
  }

  /** @param {{totalCount: number, destinationCount: number, messageCount: number, offlineCount: number}} counts */
  sayCounts({ totalCount, destinationCount, messageCount, offlineCount }) {
    const makes = counted(totalCount, 'request');
    const messages = messageCount > 1 ? `, with ${counted(messageCount, 'message')}` : '';
    const away = offlineCount ? ` ${number(offlineCount)} of them ${offlineCount === 1 ? 'is' : 'are'} away now.` : '';
    const rest = ` to ${counted(destinationCount, 'destination')}${messages}.${away}`;
    this.say(`This makes ${makes}${rest}`, 'good', 'This makes ', h('strong', {}, makes), rest);
  }

  /** @param {Refused | null} refused null: nothing was wrong */
  showFaults(refused) {
    this.refused = new Map();
    const elsewhere = [];
    for (const fault of refused?.faults ?? []) {
      const field = this.mode === 'form' ? this.fields.get(fieldOf(fault.path) ?? '') : undefined;
      if (!field) elsewhere.push(fault);
      else if (!this.refused.has(field.name)) this.refused.set(field.name, faultWords(fault, this.document ?? null));
    }
    for (const [name, field] of this.fields) {
      field.setFault(this.refused.get(name) ?? '');
      if (this.refused.has(name) && this.parts.options.contains(field.node)) this.parts.options.open = true;
    }
    const line = (/** @type {import('../api.js').Fault} */ { path, message }) =>
      h('li', {}, path ? h('code', {}, path) : null, path ? ': ' : null, message);
    fill(this.parts.faultList, ...elsewhere.map(line));
    if (!refused) return;
    const marked = this.refused.size;
    if (marked) this.say(`${counted(marked, 'field')} ${marked === 1 ? 'needs' : 'need'} mending.`, 'warning');
    else this.say(refused.faults.length ? 'The document needs mending.' : refused.message, 'warning');
  }

  focusFault() {
    if (this.mode === 'json') {
      this.json.focus();
      return;
    }
    const field = [...this.fields.values()].find((one) => one.fault()) ?? this.fields.get(this.missing?.[0] ?? '');
    if (field && this.parts.options.contains(field.node)) this.parts.options.open = true;
    field?.control.focus();
  }

  // Submit

  /** @param {Event} event */
  async submit(event) {
    event.preventDefault();
    if (this.busy) return;
    this.place.clear();
    const text = this.body();
    if (text === null) {
      for (const name of this.missing ?? []) this.fields.get(name)?.setFault(NEEDED[name]);
      this.focusFault();
      return;
    }
    if (text.length > LARGEST) {
      this.place.say('The document is larger than 16 MiB. Split it into several jobs.');
      return;
    }
    this.preview.cancel();
    this.previewLate.cancel();
    this.calls.abort();
    this.setBusy(true);
    try {
      // A document with a key of its own needs no other.
      const job = await ask('POST', 'jobs', { text, key: this.document?.key === undefined ? this.key : undefined });
      this.done = true;
      dropDraft();
      announce(`Job ${job.id} was created`);
      go(link(`/jobs/${job.id}`));
    } catch (error) {
      this.tell(error);
    } finally {
      this.setBusy(false);
    }
  }

  /** @param {unknown} error */
  tell(error) {
    if (error instanceof Refused && error.faults.length) {
      this.showFaults(error);
      this.focusFault();
    } else if (error instanceof Refused && error.code === 409) {
      // The answer to the first submit was lost, and the form was changed since.
      this.place.error(error);
      const anew = () => {
        this.key = freshKey();
        this.place.clear();
        this.changed();
        this.parts.submitButton.focus();
      };
      this.place.node.append(
        h('button', { type: 'button', class: 'button small', on: { click: anew } }, 'Make it a new job all the same'),
      );
    } else if (error instanceof Unreachable) {
      this.place.say(
        `${error.message} Whether the job was created is not known. Submit again: it does not make a second one.`,
      );
    } else {
      this.place.error(error);
    }
  }

  /** @param {boolean} busy */
  setBusy(busy) {
    this.busy = busy;
    const button = this.parts.submitButton;
    button.setAttribute('aria-disabled', String(busy));
    setText(button, busy ? 'Creating …' : 'Create job');
  }

  showCurl() {
    const text = this.body();
    if (text === null) {
      this.place.say('There is no job to show yet.');
      this.preview();
      return;
    }
    const command = asCurl(address('jobs').href, text, Boolean(session.account?.loginRequired));
    const long = text.length > LONGEST_ARGUMENT;
    const buttons = [copyButton(() => command, 'Copy the command')];
    if (long) buttons.push(downloadButton(text));
    const how = 'The document is too long for a command line: save it as job.json where you run the command.';
    const shown = h('pre', { role: 'group', tabindex: 0, class: 'curl', 'aria-label': 'The command' }, command);
    show('The same with curl', [long ? note('plain', how) : null, shown], buttons);
    this.preview();
  }
}

/**
 * What an address says of the devices that the job is for, as values of fields.
 *
 * @param {URLSearchParams} query
 * @returns {Record<string, string> | null}
 */
function targetsIn(query) {
  const [labels, connection] = [query.getAll('label').join(', '), query.get('connection') ?? ''];
  return labels || connection ? { targetLabels: labels, targetConnection: connection } : null;
}

/**
 * The destinations of a file, or why it can't be read.
 *
 * @param {File} file
 * @returns {Promise<string[] | string>}
 */
async function readLines(file) {
  if (file.size > LARGEST) return `${file.name} is larger than 16 MiB.`;
  try {
    const found = lines(new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer()));
    return found.length ? found : `${file.name} names no destination.`;
  } catch {
    return `${file.name} is no UTF-8 text.`;
  }
}

/** @param {string} text */
function downloadButton(text) {
  const save = () => {
    const url = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
    h('a', { href: url, download: 'job.json' }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  return h('button', { type: 'button', class: 'button small', on: { click: save } }, icon('file'), 'Save job.json');
}
