/**
 * The shell: routes, top bar, live updates, theme and keyboard.
 *
 * A view is a function of its root and its context that returns `update('mount' | 'url' | 'live')`, which gives false
 * where it asked for nothing, and at will `keys`, `search`, `escape` and `destroy`.
 */
import { api, count, html, icon, integer, navigate, nothing, param, render, requests, shell, stored } from './lib.js';

const ROUTES = [
  [/^\/$/, 'overview'], [/^\/t\/([^/]+)$/, 'trace'],
  [/^\/(traces|map|metrics|logs|compare|doctor|sql)$/, ''],
];
/** Views that share a module with others; each is fetched when it is opened. */
const TOGETHER = { map: 'overview', compare: 'tools', doctor: 'tools', sql: 'tools' };
const NAV = [
  ['o', '/', 'Overview'], ['t', '/traces', 'Traces'], ['m', '/map', 'Map'], ['e', '/metrics', 'Metrics'], ['l', '/logs', 'Logs'],
  ['c', '/compare', 'Compare'], ['d', '/doctor', 'Doctor'], ['s', '/sql', 'SQL'],
];
const KEYS = [
  ['j k ↓ ↑', 'move through rows and spans'], ['Enter', 'open'], ['Esc', 'close, or go back'], ['← →', 'collapse, expand'],
  ['/', 'search or find'], ['p', 'pause or resume'], ['w', 'light or dark'], ['?', 'this help'],
  ...NAV.map(([key, , name]) => [`g ${key}`, name]), ['http.route=/users', 'search: an attribute'],
  ['service= kind= status=', 'search: filters'], ['min=20 max=500', 'search: milliseconds'],
];
const $ = (id) => document.getElementById(id);

let current = { key: '', stop() {} };
let problem = '';

function match() {
  for (const [pattern, name] of ROUTES) {
    const found = location.pathname.match(pattern);
    if (found) return { name: name || found[1], params: found.slice(1).map(decodeURIComponent) };
  }
  return { name: 'overview', params: [] };
}

async function route() {
  const { name, params } = match();
  const key = `${name} ${params}`;
  if (key === current.key) return update('url');
  current.view?.destroy?.();
  current.stop();
  const { get, stop } = requests();
  const mine = (current = { key, stop });
  const module = await import(`./${TOGETHER[name] ?? name}.js`);
  if (mine !== current) return;
  const root = document.createElement('div');
  root.className = `view ${name}`;
  $('main').replaceChildren(root);
  document.title = `${NAV.find(([, to]) => to === location.pathname)?.[2] ?? 'Trace'} · rsketch`;
  scrollTo(0, 0);
  problem = '';
  current.view = (module[name] ?? module.default)(root, { params, get });
  draw();
  await update('mount');
  // After the first answer only: before it there is nothing to scroll to.
  if (history.state?.y) scrollTo(0, history.state.y);
}

async function update(reason) {
  const view = current.view;
  pending++;
  try {
    // Only an answer takes a failure back.
    if ((await view?.update(reason)) !== false && problem && view === current.view) setProblem('');
  } catch (error) {
    const aborted = error.name === 'AbortError';
    if (!aborted && view === current.view) setProblem(error.message);
  } finally {
    pending--;
  }
  if (dirty) refresh();
}

function setProblem(line) {
  problem = line;
  drawBars();
}

let connection = 'connecting';
let unseen = 0;
let dirty = false;
let running = false;
let pending = 0;
const dismissed = new Set();

/** Refresh at most every 300 ms, never over another request of the view, and not while nobody can or wants to see it. */
async function refresh() {
  if (running || pending || shell.paused || document.hidden) {
    dirty = true;
    return;
  }
  running = true;
  dirty = false;
  const started = performance.now();
  await Promise.all([update('live'), loadStatus()]);
  setTimeout(() => {
    running = false;
    if (dirty) refresh();
    // A view that is dear to fetch is fetched less often.
  }, Math.max(300, 3 * (performance.now() - started)));
}

async function loadStatus() {
  try {
    shell.status = await api('/api/status');
    drawBars();
  } catch { /* the event stream says that the server is away */ }
}

function listen() {
  const source = new EventSource('/api/live');
  const state = (value) => () => {
    connection = value;
    if (value === 'reconnecting' && source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
    drawLive();
  };
  source.onopen = () => {
    state('live')();
    if (problem) update('mount');
  };
  source.onerror = state('reconnecting');
  source.addEventListener('change', (event) => {
    const { spans, logs } = JSON.parse(event.data).new;
    unseen += spans + logs;
    refresh();
    drawLive();
  });
  source.addEventListener('notice', loadStatus);
}

function pause() {
  shell.paused = !shell.paused;
  unseen = 0;
  if (!shell.paused) refresh();
  drawLive();
}

const scheme = matchMedia('(prefers-color-scheme: dark)');
const isDark = () => (document.documentElement.dataset.theme ?? (scheme.matches ? 'dark' : 'light')) === 'dark';

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  draw();
  window.dispatchEvent(new Event('theme'));
}

function toggleTheme() {
  const theme = isDark() ? 'light' : 'dark';
  stored.set('theme', theme);
  setTheme(theme);
}

function draw() {
  const path = location.pathname.startsWith('/t/') ? '/traces' : location.pathname;
  const last = param('last');
  render(html`<a class="brand" href="/" aria-label="rsketch, overview"><span class="mark" aria-hidden="true"></span>rsketch</a>
    <nav aria-label="Views">${NAV.map(([, to, name]) => html`<a href=${last ? `${to}?last=${encodeURIComponent(last)}` : to}
      aria-current=${to === path ? 'page' : nothing}>${name}</a>`)}</nav>
    <div class="tools"><span id="live"></span>
      <button class="ghost icon-only" type="button" aria-label="Light or dark theme" title="Light or dark (w)" @click=${toggleTheme}>${icon('theme')}</button>
      <button class="ghost icon-only" type="button" aria-label="Keyboard help" title="Keyboard (?)" @click=${help}>${icon('help')}</button></div>`, $('top'));
  // On a narrow screen the bar of views scrolls.
  document.querySelector('nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  drawLive();
}

function drawLive() {
  const host = $('live');
  if (!host) return;
  const state = shell.paused ? 'paused' : connection;
  const label = { live: 'Live', paused: unseen ? `Paused · ${count(unseen)} new` : 'Paused' }[state] ?? 'Reconnecting';
  render(html`<button class="live ${state}" type="button" aria-pressed=${shell.paused} title="Pause or resume live updates (p)" @click=${pause}><i class="pulse"></i>
    <span>${label}</span>${icon(shell.paused ? 'play' : 'pause')}</button>`, host);
}

/** Bars under the top bar: a failed request, notices, losses. Nothing is lost silently. */
function drawBars() {
  const status = shell.status ?? {};
  const bar = (key, level, line) => dismissed.has(key) ? nothing : html`<div class="bar ${level}">${icon('alert')}<span>${line}</span>
    <button class="ghost icon-only" type="button" aria-label="Dismiss" @click=${() => { dismissed.add(key); drawBars(); }}>${icon('close')}</button></div>`;
  const losses = ['refused', 'rejected', 'malformed'].filter((key) => status[key]).map((key) => `${integer(status[key])} ${key}`).join(', ');
  render(html`${problem ? html`<div class="bar error" role="alert">${icon('alert')}<span>${problem}</span><button type="button" @click=${() => update('mount')}>Retry</button></div>` : nothing}
    ${losses ? bar(losses, 'warning', `Not everything was stored: ${losses}.`) : nothing}
    ${(status.notices ?? []).slice(-3).map((notice) => bar(`${notice.at_us}${notice.text}`, notice.level, notice.text))}`, $('bars'));
}

function help() {
  const dialog = $('help');
  render(html`<form method="dialog"><h2>Keyboard</h2><button class="ghost icon-only" aria-label="Close">${icon('close')}</button></form>
    <dl>${KEYS.map(([keys, what]) => html`<div><dt>${keys.split(' ').map((key) => html`<kbd>${key}</kbd>`)}</dt><dd>${what}</dd></div>`)}</dl>`, dialog);
  dialog.showModal();
}

let fading = 0;
window.addEventListener('say', (event) => {
  const host = $('say');
  host.textContent = event.detail;
  clearTimeout(fading);
  fading = setTimeout(() => { host.textContent = ''; }, 2500);
});

let leader = 0;

function step(by) {
  const rows = [...$('main').querySelectorAll('[data-row]')].filter((row) => row.offsetParent);
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const row = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by))];
  row?.focus();
  row?.scrollIntoView({ block: 'nearest' });
  return Boolean(row);
}

function escape() {
  if (current.view?.escape?.()) return;
  if (location.pathname.startsWith('/t/')) history.length > 1 ? history.back() : navigate('/traces');
}

function press(key) {
  const go = performance.now() - leader < 1200 && NAV.find(([letter]) => letter === key);
  leader = 0;
  if (go) navigate(go[1]);
  else if (key === 'g') leader = performance.now();
  else if (key === 'j' || key === 'ArrowDown') return step(1);
  else if (key === 'k' || key === 'ArrowUp') return step(-1);
  else if (key === '?') help();
  else if (key === 'p') pause();
  else if (key === 'w') toggleTheme();
  else if (key === 'Escape') escape();
  else if (key === '/') current.view?.search ? current.view.search() : document.querySelector('[data-search]')?.focus();
  else return false;
  return true;
}

document.addEventListener('keydown', (event) => {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || document.querySelector('dialog[open]')) return;
  if (target.closest('input, textarea, select, [contenteditable]')) {
    if (event.key === 'Escape') target.blur();
    return;
  }
  const arrows = event.key.startsWith('Arrow') && target.closest('[role=tablist], .scroll');
  if (arrows) return;
  if ((!leader && current.view?.keys?.(event)) || press(event.key)) event.preventDefault();
});

document.addEventListener('click', (event) => {
  const link = event.target.closest('a[href]');
  if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const to = link.getAttribute('href');
  if (!to.startsWith('/') || to.startsWith('/api/') || link.hasAttribute('download')) return;
  event.preventDefault();
  navigate(to);
});

for (const event of ['urlchange', 'popstate']) window.addEventListener(event, () => { draw(); route(); });
document.addEventListener('visibilitychange', () => { if (!document.hidden && dirty) refresh(); });
scheme.addEventListener('change', () => setTheme(stored.get('theme')));
history.scrollRestoration = 'manual';
setTheme(stored.get('theme'));
// Views read the oldest record and the totals, so the status comes first; it is one small local request.
await loadStatus();
route();
listen();
