// @ts-check
/** Overview: rate, errors and durations of every operation, and the traces worth opening first. */
import { sparkline } from './charts.js';
import {
  bytes, code, count, dataTable, dot, duration, emptyState, html, href, integer, nothing, param, percent, query, rangePicker, rate, render,
  segments, setQuery, shell, skeleton, slot, sorted, timeShort, waiting, windowParams,
} from './lib.js';

export const title = 'Overview';

/** @param {HTMLElement} root @param {import('./lib.js').Context} context @returns {import('./lib.js').View} */
export default function overview(root, { get }) {
  /** @type {any} */ let data;

  async function update(reason) {
    if (reason === 'mount') draw();
    data = await get('/api/overview', { ...windowParams('15m'), service: param('service') });
    draw();
  }

  const draw = () => render(data && !data.totals.spans && shell.status?.spans === 0 && !query().size ? html`<h1 class="sr">Overview</h1>${waiting()}` : page(), root);

  const page = () => html`<div class="head"><h1>Overview</h1>${rangePicker('15m')}</div>
    <div class="tiles">${tiles(data)}</div>
    <section class="panel"><header><h2>${side() === 'outgoing' ? 'Outgoing calls' : 'Operations'}</h2>${segments('Direction', [['', 'Incoming'], ['outgoing', 'Outgoing']], side(), (dir) => setQuery({ dir }))}</header>
      ${data ? operations(data[side() || 'operations']) : skeleton(7)}</section>
    <div class="columns">${list('Slowest traces', data?.slowest, 'No trace in this window')}${list('Failed traces', data?.failed, 'Nothing failed in this window')}</div>`;

  return { update };
}

const side = () => param('dir');

function tiles(data) {
  const totals = data?.totals ?? {};
  const sum = (key) => (data?.steps ?? []).map((_, i) => data.operations.reduce((n, operation) => n + (operation[key][i] ?? 0), 0));
  const share = totals.requests ? totals.errors / totals.requests : data ? 0 : null;
  const { status } = shell;
  return html`${tile('Requests', rate(totals.rate), data ? `${integer(totals.requests)} in this window` : '', data && sparkline(sum('counts')))}
    ${tile('Errors', percent(share), data ? `${integer(totals.errors)} failed` : '', data && sparkline(sum('errors_by_step')), totals.errors ? 'bad' : '')}
    ${tile('Duration p95', duration(totals.p95_ns), data ? `p50 ${duration(totals.p50_ns)} · p99 ${duration(totals.p99_ns)}` : '')}
    ${tile('Stored spans', count(status?.spans), status ? `${count(status.logs)} logs · ${count(status.points)} points · ${bytes(status.bytes)}` : '')}`;
}

const tile = (label, value, note, chart = nothing, tone = '') => html`<section class="tile ${tone}"><h2>${label}</h2><b>${value}</b><p class="muted">${note}</p>${chart}</section>`;

function operations(rows) {
  if (!rows?.length) return emptyState('No operation in this window', 'Widen the time range, or send a request.');
  const sort = param('sort', '-count');
  const value = (row, id) => (id === 'errors' ? row.errors / row.count : row[id]);
  const open = (row) => href('/traces', { service: row.service, operation: row.name, kind: side() ? row.kind : '', last: param('last', '15m') });
  const ns = (id, label) => ({ id, label, num: true, cell: (row) => duration(row[id]) });
  return dataTable({
    caption: 'Operations', rows: sorted(rows, sort, value), sort, onSort: (next) => setQuery({ sort: next }, { push: false }),
    columns: [
      { id: 'name', label: 'Operation', cell: (row) => html`<a data-row href=${open(row)}>${dot(row.service)}<span class="clip">${row.name}</span></a>` },
      { id: 'service', label: 'Service', cell: (row) => html`<span class="muted clip">${row.service}</span>` },
      { id: 'trend', label: 'Trend', sort: false, cell: (row) => html`<span class="c${slot(row.service)}">${sparkline(row.counts, row.errors_by_step)}</span>` },
      { id: 'count', label: 'Rate', num: true, cell: (row) => html`<span title="${integer(row.count)} in this window">${rate(row.rate)}</span>` },
      { id: 'errors', label: 'Errors', num: true, cell: (row) => html`<span class=${row.errors ? 'error-text' : 'muted'}>${percent(row.errors / row.count)}</span>` },
      ns('p50_ns', 'p50'), ns('p95_ns', 'p95'), ns('p99_ns', 'p99'),
    ],
  });
}

const list = (heading, rows, empty) => html`<section class="panel"><header><h2>${heading}</h2></header>${!rows ? skeleton(5) : rows.length ? html`<ol class="list">${rows.map((row) => html`
  <li><a data-row href=${`/t/${encodeURIComponent(row.trace_id)}`}>${dot(row.service)}<span class="clip">${row.root}</span>${code(row)}<span class="num">${duration(row.duration_ns)}</span><span class="muted when">${timeShort(row.start_us)}</span></a></li>`)}</ol>` : html`<p class="body muted">${empty}</p>`}</section>`;
