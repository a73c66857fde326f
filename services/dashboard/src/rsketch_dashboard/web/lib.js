/**
 * What the views share: the API client, URL state, formatters and small components.
 *
 * Telemetry only passes through lit's text and attribute bindings; nothing here takes markup from a string.
 */
import { html, nothing, render, svg } from './vendor/lit-html.js';

export { html, nothing, render, svg };

export const shell = { status: null, paused: false };

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function api(path, params = {}, options = {}) {
  const response = await fetch(href(path, params), options).catch((error) => {
    throw error.name === 'AbortError' ? error : new ApiError('The dashboard does not answer.', 0);
  });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(body.error ?? `${response.status} ${response.statusText}`, response.status);
  return body;
}

export const post = (path, body, signal) =>
  api(path, {}, { method: 'POST', signal, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });

/** A `get` for one mounted view: a new request to a path aborts the earlier one, `stop` aborts all. */
export function requests() {
  const running = new Map();
  const get = (path, params) => {
    running.get(path)?.abort();
    const controller = new AbortController();
    running.set(path, controller);
    return api(path, params, { signal: controller.signal });
  };
  return { get, stop: () => running.forEach((controller) => controller.abort()) };
}

export const query = () => new URLSearchParams(location.search);
export const param = (name, fallback = '') => query().get(name) ?? fallback;

/** A path with a query string; empty values are left out, arrays repeat their key. */
export function href(path, params = {}) {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== '' && each !== false) search.append(key, String(each));
    }
  }
  return search.size ? `${path}?${search}` : path;
}

export function navigate(url, { push = true } = {}) {
  if (url === location.pathname + location.search) return;
  if (push) {
    history.replaceState({ ...history.state, y: scrollY }, '');
    history.pushState({}, '', url);
  } else history.replaceState(history.state, '', url);
  window.dispatchEvent(new Event('urlchange'));
}

/** Merge *patch* into the query string (null removes); the view is then updated with reason 'url'. */
export function setQuery(patch, options) {
  const params = {};
  for (const key of query().keys()) params[key] = query().getAll(key);
  navigate(href(location.pathname, { ...params, ...patch }), options);
}

const FILTERS = ['service', 'operation', 'kind', 'status', 'min_ms', 'max_ms', 'q', 'run', 'health'];

export function filterParams() {
  const params = { attr: query().getAll('attr') };
  for (const key of FILTERS) params[key] = param(key);
  return params;
}

/** The time window in the URL: from_us/to_us win over `last`; 'all' starts at the oldest stored record. */
export function windowParams(fallback = '') {
  const [from_us, to_us, last] = [param('from_us'), param('to_us'), param('last', fallback)];
  if (from_us || to_us) return { from_us, to_us };
  if (last !== 'all') return { last };
  // Where everything is the default, it needs no parameter.
  return fallback === 'all' ? {} : { from_us: shell.status?.oldest_us };
}

/** localStorage may be absent or full: then a setting does not outlive the page. */
export const stored = {
  get: (key) => { try { return localStorage.getItem(`rsketch.${key}`); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(`rsketch.${key}`, value); } catch { /* private mode */ } },
};

/** Where charts of the default window begin: shortly before the first data, or a young store would look empty. */
export const lead = (steps, has) =>
  (param('last') || param('from_us') ? 0 : Math.max(0, Math.min(steps.length - 12, steps.findIndex((_, i) => has(i)) - 2)));

const group = new Intl.NumberFormat('en');
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const significant = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

export const integer = (value) => (value == null ? '–' : group.format(value));
export const count = (value) => (value == null ? '–' : value < 10_000 ? group.format(value) : compact.format(value));
export const number = (value) =>
  value == null ? '–' : Number.isInteger(value) ? count(value)
    : Math.abs(value) >= 10_000 ? compact.format(value) : String(Number(value.toPrecision(3)));
export const percent = (share) =>
  share == null ? '–' : share === 0 ? '0 %' : share < 0.001 ? '<0.1 %' : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
export const rate = (value) => (value == null ? '–' : value === 0 ? '0/s' : value < 0.01 ? '<0.01/s' : `${value < 10_000 ? significant(value) : compact.format(value)}/s`);

export function duration(ns) {
  if (ns == null) return '–';
  if (ns < 1e3) return `${ns.toFixed(0)} ns`;
  if (ns < 1e6) return `${significant(ns / 1e3)} µs`;
  if (ns < 1e9) return `${significant(ns / 1e6)} ms`;
  if (ns < 6e10) return `${significant(ns / 1e9)} s`;
  const seconds = Math.round(ns / 1e9);
  return seconds < 3600 ? `${Math.floor(seconds / 60)} m ${seconds % 60} s` : `${(seconds / 3600).toFixed(1)} h`;
}

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric' });

export const time = (us) => (us == null ? '–' : `${clock.format(us / 1e3)}.${String(Math.floor(us / 1e3) % 1e3).padStart(3, '0')}`);
export const timeShort = (us) => clock.format(us / 1e3);
export const dateTime = (us) => `${day.format(us / 1e3)} ${time(us)}`;
export const bytes = (n) => (n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : `${(n / 1e6).toFixed(1)} MB`);
export const plural = (n, noun) => `${integer(n)} ${noun}${n === 1 ? '' : 's'}`;
export const text = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

/** A palette's slot for each name: its hash, or the next free one; kept under *key*, so that it never changes. */
export function palette(key) {
  const slots = new Map(JSON.parse((key && stored.get(key)) ?? '[]'));
  return (name) => {
    if (slots.has(name)) return slots.get(name);
    let at = [...name].reduce((sum, char) => (sum * 31 + char.codePointAt(0)) % 9973, 7) % 10;
    const taken = new Set(slots.values());
    while (taken.has(at) && taken.size < 10) at = (at + 1) % 10;
    // Bounded: a producer of endless names must not fill the browser's storage.
    if (slots.size < 200) slots.set(name, at);
    if (key) stored.set(key, JSON.stringify([...slots]));
    return at;
  };
}

export const slot = palette('colours');
const own = palette('operations');
/** Whether only one service is in sight: then colours tell its operations apart. */
export const alone = () => param('service') !== '' || shell.status?.services.length === 1;
export const hue = (service, operation) => (alone() ? own(`${service} ${operation}`) : slot(service));

const ICONS = {
  copy: 'M9 9h10v10H9zM5 15V5h10', close: 'M6 6l12 12M18 6L6 18', pause: 'M9 6v12M15 6v12', play: 'M8 5l11 7-11 7z',
  theme: 'M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16', search: 'M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM16 16l4 4',
  right: 'M9 6l6 6-6 6', down: 'M6 9l6 6 6-6', up: 'M6 15l6-6 6 6', load: 'M12 4v11M7 11l5 5 5-5M5 20h14',
  table: 'M4 5h16v14H4zM4 10h16M4 15h16M10 5v14', help: 'M9 9a3 3 0 1 1 4 3c-1 .5-1 1-1 2M12 17.5v.5',
  alert: 'M12 4l9 16H3zM12 10v4M12 17v.5', filter: 'M4 6h16M7 12h10M10 18h4',
};
export const icon = (name) =>
  html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${ICONS[name]}></path></svg>`;

export const say = (line) => window.dispatchEvent(new CustomEvent('say', { detail: line }));

export async function copy(value, what = 'Copied') {
  try {
    await navigator.clipboard.writeText(value);
    say(what);
  } catch {
    say('The browser refused the clipboard');
  }
}
export const copyButton = (value, label) =>
  html`<button class="ghost icon-only" type="button" aria-label=${label} title=${label} @click=${() => copy(value)}>${icon('copy')}</button>`;

export const dot = (service, at = slot(service)) => html`<i class="dot c${at}" title=${service}></i>`;
export const serviceTag = (service) => html`<span class="service">${dot(service)}<span class="clip">${service}</span></span>`;
export const badge = (label, tone = '') => html`<span class="badge ${tone}">${label}</span>`;
export const code = (row) =>
  row.code == null ? (row.status === 'ERROR' ? badge('error', 'error') : nothing)
    : badge(row.code, row.status === 'ERROR' || /^5/.test(row.code) ? 'error' : /^4/.test(row.code) ? 'warn' : '');

export const chip = (label, value, remove) => html`<span class="chip"><span class="muted">${label}</span>
  <b class="clip">${value}</b><button type="button" aria-label="Remove filter ${label} ${value}" @click=${remove}>${icon('close')}</button></span>`;

export const segments = (label, items, active, choose) => html`<div class="segments" role="group" aria-label=${label}>
  ${items.map(([value, name]) => html`<button type="button" aria-pressed=${value === active} @click=${() => choose(value)}>${name}</button>`)}</div>`;

export const searchBox = (label, placeholder, take) => {
  const submit = (event) => { event.preventDefault(); take(document.querySelector('main input[type=search]')); };
  return html`<form class="search" role="search" @submit=${submit}>${icon('search')}
    <input data-search type="search" aria-label=${label} placeholder=${placeholder} .value=${param('q')} @change=${submit}></form>`;
};

/** Names in the search box that are filters of their own; any other `key=value` is an attribute. */
const NAMED = { service: 'service', operation: 'operation', kind: 'kind', status: 'status', run: 'run', min: 'min_ms', max: 'max_ms' };

/** Make the search box's words filters; what became a chip leaves the box. */
export function takeFilters(input) {
  const patch = { attr: query().getAll('attr') };
  const words = [];
  for (const [, quoted, word] of input.value.matchAll(/"([^"]*)"|((?:[^\s"]|"[^"]*")+)/g)) {
    const [key, value] = (word ?? '').split(/=(.*)/s);
    if (quoted !== undefined || value === undefined) words.push(quoted ?? word);
    else if (NAMED[key]) patch[NAMED[key]] = value.replaceAll('"', '');
    else patch.attr.push(value ? `${key}=${value.replaceAll('"', '')}` : key);
  }
  input.value = words.join(' ');
  setQuery({ ...patch, attr: [...new Set(patch.attr)], q: input.value });
}

/** Active filters: of *keys*, attributes, and the explicit time, which a brush sets with the durations. */
export function filterChips(keys) {
  const drop = (...names) => () => setQuery(Object.fromEntries(names.map((key) => [key, null])));
  const attrs = query().getAll('attr');
  const [from, to] = ['from_us', 'to_us'].map((key) => param(key) && timeShort(Number(param(key))));
  return html`${keys.filter((key) => param(key)).map((key) => chip(key, param(key), drop(key)))}
    ${attrs.map((attr) => chip('attribute', attr, () => setQuery({ attr: attrs.filter((each) => each !== attr) })))}
    ${from || to ? chip('time', `${from || '…'} – ${to || '…'}`, drop('from_us', 'to_us', 'min_ms', 'max_ms')) : nothing}`;
}

export const serviceFacets = (services) => (alone() ? nothing : services.slice(0, 12).map(({ value, count: n }) => html`<button class="facet" type="button" @click=${() => setQuery({ service: value })}>
  ${dot(value)}<span class="clip">${value}</span>${n ? html`<span class="muted">${count(n)}</span>` : nothing}</button>`));

/** Asks for more when the end comes near. What fails is asked for again: the next draw observes the end anew. */
export const atEnd = (more) => new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) more().catch(() => {}); }, { rootMargin: '600px' });

/** The time range, kept as `last` in the URL; an explicit window shows as a chip. */
export function rangePicker(fallback) {
  const custom = param('from_us') || param('to_us');
  const choose = (last) => setQuery({ last: last === fallback ? null : last, from_us: null, to_us: null });
  return segments('Time range', ['5m', '15m', '1h', '6h', '24h', 'all'].map((v) => [v, v]), custom ? '' : param('last', fallback), choose);
}

export function tabs(label, items, active, choose, panel) {
  const step = (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.stopPropagation();
    const at = items.findIndex(([id]) => id === active);
    choose(items[(at + move + items.length) % items.length][0]);
    requestAnimationFrame(() => document.getElementById(`${panel}-tab`)?.focus());
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} @keydown=${step}>${items.map(([id, name, n]) => html`
    <button type="button" role="tab" id=${id === active ? `${panel}-tab` : nothing} aria-selected=${id === active}
      aria-controls=${id === active ? panel : nothing} tabindex=${id === active ? 0 : -1} @click=${() => choose(id)}>${name}${n == null ? nothing : html` <span class="muted">${n}</span>`}</button>`)}</div>`;
}

export const emptyState = (title, ...lines) => html`<div class="empty"><div class="mark" aria-hidden="true"></div>
  <h2>${title}</h2>${lines.map((line) => (typeof line === 'string' ? html`<p>${line}</p>` : line))}</div>`;

export const command = (line) => html`<div class="command"><code tabindex="0">${line}</code>${copyButton(line, 'Copy command')}</div>`;

export function waiting() {
  const at = shell.status?.endpoints ?? {};
  const host = (url, fallback) => (url ?? fallback).replace(/^https?:\/\//, '').replace('127.0.0.1', 'localhost');
  return emptyState('Waiting for telemetry',
    `OTLP/gRPC on ${host(at.grpc, 'localhost:4317')}, OTLP/HTTP on ${host(at.http, 'localhost:4318')}. This page fills itself as soon as something arrives.`,
    html`<p class="muted">Ask the rsketch server for something:</p>${command('curl http://localhost:3000/api/v1/hello?name=ada')}
      <p class="muted">Or point any OpenTelemetry program here:</p>${command(`export OTEL_EXPORTER_OTLP_ENDPOINT=http://${host(at.http, 'localhost:4318')} OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf`)}`);
}
/** The same as a page of its own. */
export const welcome = () => html`<h1 class="sr">${document.title}</h1>${waiting()}`;

export const untouched = () => Boolean(shell.status && !shell.status.spans && !shell.status.logs);

/** Grey bars of the final size, so that nothing jumps when data arrives. */
export const skeleton = (rows = 8) => html`<div class="skeleton" role="status" aria-label="Loading">${Array.from({ length: rows }, () => html`<i></i>`)}</div>`;

/** A table; `sort` is a column's id, with a leading '-' for descending. `<a data-row>` in a cell makes its row a link. */
export function dataTable({ caption, columns, rows, sort = '', onSort }) {
  const head = (column) => {
    const [on, down] = [sort.replace('-', '') === column.id, sort.startsWith('-')];
    const label = onSort && column.sort !== false
      ? html`<button type="button" @click=${() => onSort(on && down ? column.id : `-${column.id}`)}>${column.label}<span class="arrow" aria-hidden="true">${on ? (down ? '↓' : '↑') : ''}</span></button>`
      : column.label;
    return html`<th scope="col" class="${column.num ? 'num ' : ''}${column.id}" aria-sort=${on ? (down ? 'descending' : 'ascending') : nothing}>${label}</th>`;
  };
  return html`<table class="rows"><caption class="sr">${caption}</caption><thead><tr>${columns.map(head)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${columns.map((column) => html`<td class="${column.num ? 'num ' : ''}${column.id}">${column.cell(row)}</td>`)}</tr>`)}</tbody></table>`;
}

export function sorted(rows, sort, value = (row, id) => row[id]) {
  const [id, sign] = [sort.replace('-', ''), sort.startsWith('-') ? -1 : 1];
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a, id), value(b, id)];
    if (x == null || y == null) return (x == null ? 1 : 0) - (y == null ? 1 : 0);
    return sign * (typeof x === 'string' ? x.localeCompare(y) : x - y);
  });
}

/**
 * Reconcile *host*'s children with *items* by key, so that rows keep focus and scroll while live data arrives;
 * later ones get the class `new`.
 */
export function keyed(host, items, keyOf, template, tag = 'tr') {
  const known = host.rows_ ?? (host.rows_ = new Map());
  const first = known.size === 0;
  const keep = new Map();
  let at = host.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    if (keep.has(key)) continue;
    let row = known.get(key);
    if (!row) {
      row = document.createElement(tag);
      if (!first) row.className = 'new';
    }
    keep.set(key, row);
    render(template(item), row);
    if (row === at) at = at.nextElementSibling;
    else host.insertBefore(row, at);
  }
  for (const [key, row] of known) if (keep.get(key) !== row) row.remove();
  host.rows_ = keep;
}

export const pairs = (list, action = (_key, _value) => nothing) => html`<dl class="pairs">${list.map(([key, value]) => {
  const shown = text(value);
  const long = shown.length > 400;
  return html`<div><dt>${key}</dt><dd><span class="value ${typeof value === 'string' ? '' : 'mono'} ${long ? 'long' : ''}" tabindex=${long ? 0 : nothing}>${shown}</span>
    <span class="actions">${copyButton(shown, `Copy ${key}`)}${action(key, value)}</span></dd></div>`;
})}</dl>`;

export const choice = (label, options, chosen, choose) => html`<label class="choice"><span class="muted">${label}</span><select @change=${(event) => choose(event.target.value)}>
  ${options.map(([value, name]) => html`<option value=${value} .selected=${value === chosen}>${name}</option>`)}</select></label>`;
