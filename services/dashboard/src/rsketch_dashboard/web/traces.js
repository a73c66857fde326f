// @ts-check
/** Traces: a latency scatter to brush, filters that live in the URL, and a list that grows by pages and by live data. */
import './charts.js';
import {
  chip, code, count, dateTime, dot, duration, emptyState, filterParams, href, html, icon, integer, keyed, navigate, nothing, param, plural,
  query, rangePicker, render, segments, setQuery, shell, skeleton, slot, time, timeShort, waiting, windowParams,
} from './lib.js';

export const title = 'Traces';

const PAGE = 100;
const MOST = 2000;
/** Names in the search box that are filters of their own; any other `key=value` is an attribute. */
const NAMED = { service: 'service', operation: 'operation', kind: 'kind', status: 'status', run: 'run', min: 'min_ms', max: 'max_ms' };

/** @param {HTMLElement} root @param {import('./lib.js').Context} context @returns {import('./lib.js').View} */
export default function traces(root, { get }) {
  /** @type {any[]|undefined} */ let rows;
  /** @type {any} */ let scatter;
  let facets = /** @type {any} */ ({});
  let more = false;
  let loading = false;

  const slowest = () => param('sort') === 'duration';
  const filters = () => ({ ...filterParams(), ...windowParams('all'), sort: slowest() ? 'duration' : '' });

  async function update(reason) {
    if (reason === 'mount') draw();
    const [page, dots] = await Promise.all([
      get('/api/traces', { ...filters(), facets: 1, limit: slowest() && rows && rows.length > PAGE ? 500 : PAGE }),
      // The scatter keeps the whole window, so that a brushed box stays visible in its surroundings.
      get('/api/scatter', { ...filterParams(), last: param('last') === 'all' ? '' : param('last'), min_ms: '', max_ms: '' }),
    ]);
    const last = page.traces.at(-1)?.start_us ?? Infinity;
    const older = reason === 'live' && !slowest() ? (rows ?? []).filter((row) => row.start_us < last) : [];
    rows = [...page.traces, ...older].slice(0, MOST);
    if (!older.length) more = page.more;
    facets = page.facets ?? {};
    scatter = dots;
    draw();
  }

  async function loadMore() {
    if (loading || !more || !rows?.length || rows.length >= MOST) return;
    loading = true;
    const paging = slowest() ? { limit: 500 } : { limit: PAGE, before_us: rows.at(-1).start_us };
    try {
      const page = await get('/api/traces', { ...filters(), ...paging });
      rows = slowest() ? page.traces : [...rows, ...page.traces];
      more = page.more && !slowest();
      draw();
    } finally {
      loading = false;
    }
  }

  function draw() {
    const empty = rows?.length === 0 && shell.status?.spans === 0 && !query().size;
    render(empty ? html`<h1 class="sr">Traces</h1>${waiting()}` : page(), root);
    const body = root.querySelector('tbody');
    if (!body || !rows) return;
    const longest = Math.max(1, ...rows.map((row) => row.duration_ns));
    keyed(body, rows, (row) => row.trace_id, (row) => traceRow(row, longest));
    watch.disconnect();
    const end = root.querySelector('.end');
    if (end) watch.observe(end);
  }

  const watch = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) loadMore(); }, { rootMargin: '400px' });

  const page = () => html`<div class="head"><h1>Traces</h1>${rangePicker('all')}</div>
    ${toolbar()}
    <section class="panel"><div class="body">${scatter ? html`<rs-chart .spec=${scatterSpec(scatter)}></rs-chart>` : html`<div class="plot-wait"></div>`}</div></section>
    ${narrowing(facets)}
    <section class="panel" aria-label="Traces">${rows ? nothing : skeleton(10)}
      <table class="rows" ?hidden=${!rows?.length}><caption class="sr">Traces</caption><thead><tr><th class="time" scope="col">Started</th><th class="name" scope="col">Name</th><th class="svc" scope="col">Services</th>
        <th class="dur" scope="col">Duration</th><th class="num spans" scope="col">Spans</th><th class="num state" scope="col">Status</th></tr></thead><tbody></tbody></table>
      ${rows?.length === 0 ? emptyState('No trace matches', 'Widen the time range or remove a filter.') : nothing}
      ${rows?.length ? html`<p class="end muted">${rows.length >= MOST ? `The first ${integer(MOST)}; narrow the filter for the rest` : more ? 'Loading more…' : `${plural(rows.length, 'trace')}, nothing older`}</p>` : nothing}</section>`;

  const toolbar = () => html`<div class="toolbar"><form class="search" role="search" @submit=${submit}>${icon('search')}
      <input data-search name="q" type="search" aria-label="Search traces" placeholder="Span name, or key=value" .value=${param('q')} @change=${submit}>
      <button class="ghost icon-only" type="button" popovertarget="grammar" aria-label="Search help">${icon('help')}</button></form>
      <div id="grammar" popover><b>Search</b><p><code>hello</code> span names containing it</p><p><code>http.route=/users</code> an exact attribute</p><p><code>user.id=</code> has the attribute</p>
        <p><code>service=… operation=… kind=CLIENT status=error min=20 max=500</code> (ms)</p></div>
      <span class="between">${limit('min_ms', 'Minimum')}–${limit('max_ms', 'Maximum')} ms</span>
      ${segments('Status', [['', 'All'], ['error', 'Errors'], ['ok', 'OK']], param('status'), (status) => setQuery({ status }))}
      ${segments('Order', [['', 'Newest'], ['duration', 'Slowest']], param('sort'), (sort) => setQuery({ sort }))}
      <button type="button" aria-pressed=${param('health') === '1'} @click=${() => setQuery({ health: param('health') ? null : 1 })}>Health checks</button></div>`;

  const limit = (key, label) => html`<input type="number" min="0" step="any" aria-label="${label} duration in milliseconds" placeholder=${label.slice(0, 3).toLowerCase()}
    .value=${param(key)} @change=${(event) => setQuery({ [key]: event.target.value })}>`;

  function submit(event) {
    event.preventDefault();
    const input = root.querySelector('input[name=q]');
    setQuery(parse(/** @type {HTMLInputElement} */ (input).value));
  }

  return { update, destroy: () => watch.disconnect() };
}

/** The search box's words as a patch of the query string. */
function parse(line) {
  /** @type {Record<string, any>} */
  const patch = { attr: query().getAll('attr') };
  const words = [];
  for (const [, quoted, word] of line.matchAll(/"([^"]*)"|((?:[^\s"]|"[^"]*")+)/g)) {
    const [key, value] = (word ?? '').split(/=(.*)/s);
    if (quoted !== undefined || value === undefined) words.push(quoted ?? word);
    else if (NAMED[key]) patch[NAMED[key]] = value.replaceAll('"', '');
    else patch.attr.push(value ? `${key}=${value.replaceAll('"', '')}` : key);
  }
  patch.attr = [...new Set(patch.attr)];
  return { ...patch, q: words.join(' ') };
}

/** Active filters, then what the answer offers to narrow it further. */
function narrowing(facets) {
  const drop = (key) => () => setQuery({ [key]: null });
  const active = ['service', 'operation', 'kind', 'run'].filter((key) => param(key)).map((key) => chip(key, param(key), drop(key)));
  const attrs = query().getAll('attr').map((attr) => chip('attribute', attr, () => setQuery({ attr: query().getAll('attr').filter((each) => each !== attr) })));
  const [from, to] = [Number(param('from_us')), Number(param('to_us'))];
  if (from || to) active.push(chip('time', `${from ? timeShort(from) : '…'} – ${to ? timeShort(to) : '…'}`, () => setQuery({ from_us: null, to_us: null, min_ms: null, max_ms: null })));
  const offer = param('service') ? [] : (facets.services ?? []).slice(0, 8);
  const operations = param('operation') ? [] : facets.operations ?? [];
  return html`<div class="chips">${active}${attrs}
    ${offer.map(({ value, count: n }) => html`<button class="facet" type="button" @click=${() => setQuery({ service: value })}>${dot(value)}<span class="clip">${value}</span><span class="muted">${count(n)}</span></button>`)}
    ${operations.length > 1 ? html`<select aria-label="Operation" .value=${''} @change=${(event) => setQuery({ operation: event.target.value })}><option value="">Any operation</option>
      ${operations.map(({ value, count: n }) => html`<option value=${value}>${value} (${integer(n)})</option>`)}</select>` : nothing}</div>`;
}

/** @returns {import('./charts.js').Spec} */
function scatterSpec({ points, operations, total, sampled }) {
  const ms = (key) => (param(key) ? Number(param(key)) * 1e6 : undefined);
  const us = (key) => (param(key) ? Number(param(key)) : undefined);
  const box = { x0: us('from_us'), x1: us('to_us'), y0: ms('min_ms'), y1: ms('max_ms') };
  const colors = operations.map((name) => `--s${slot(name.split(' ')[0])}`);
  return {
    kind: 'scatter', title: 'Latency', height: 210, log: true, x: [], format: duration, columns: ['Operation', 'Status'],
    note: points.length ? `${sampled ? `${integer(points.length)} of ` : ''}${plural(total, 'trace')} · drag to select, click to open · × failed` : '',
    points: points.map(([x, y, failed, op, id]) => ({ x, y: Math.max(1, y), error: Boolean(failed), color: failed ? '--error' : colors[op], label: operations[op], id, row: [operations[op], failed ? 'error' : 'ok'] })),
    selection: Object.values(box).some((value) => value !== undefined) ? box : undefined,
    onBrush: ({ x0, x1, y0, y1 }) => setQuery({ from_us: x0, to_us: x1, min_ms: y0 && (y0 / 1e6).toPrecision(4), max_ms: y1 && (y1 / 1e6).toPrecision(4) }),
    onPoint: (point) => navigate(`/t/${encodeURIComponent(/** @type {any} */ (point).id)}`),
  };
}

function traceRow(row, longest) {
  const share = (row.duration_ns / longest) * 100;
  return html`<td class="time mono" title=${dateTime(row.start_us)}>${time(row.start_us)}</td>
    <td class="name"><a data-row href=${href(`/t/${encodeURIComponent(row.trace_id)}`)}>${dot(row.service)}<span class="clip">${row.root}</span>${row.orphan ? html`<span class="badge" title="The parent span has not arrived">partial</span>` : nothing}</a></td>
    <td class="svc"><span class="dots">${row.services.slice(0, 6).map(dot)}</span><span class="sr">${row.services.join(', ')}</span></td>
    <td class="dur"><svg class="meter c${slot(row.service)} ${row.status === 'ERROR' ? 'error' : ''}" aria-hidden="true"><rect width="${Math.max(0.5, share)}%" height="100%" rx="2"></rect></svg><span>${duration(row.duration_ns)}</span></td>
    <td class="num spans"><span>${integer(row.spans)}<span class="unit"> ${row.spans === 1 ? 'span' : 'spans'}</span></span></td>
    <td class="num state">${row.errors ? html`<span class="badge error" title="Spans with an error">${plural(row.errors, 'error')}</span> ` : nothing}${code(row)}</td>`;
}

/** A short list of traces, as the overview shows it. */
export const traceList = (rows) => html`<ol class="list">${rows.map((row) => html`<li><a data-row href=${`/t/${encodeURIComponent(row.trace_id)}`}>
  ${dot(row.service)}<span class="clip">${row.root}</span>${code(row)}<span class="num">${duration(row.duration_ns)}</span><span class="muted mono">${timeShort(row.start_us)}</span></a></li>`)}</ol>`;
