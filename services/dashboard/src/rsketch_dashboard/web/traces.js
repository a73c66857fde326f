/** Traces: a latency scatter to brush, filters that live in the URL, and a list that grows by pages and by live data. */
import './charts.js';
import {
  alone, api, atEnd, code, count, dateTime, dot, duration, emptyState, filterChips, filterParams, href, html, hue, icon, integer, keyed, navigate,
  nothing, param, plural, query, rangePicker, render, say, searchBox, segments, serviceFacets, setQuery, shell, skeleton, takeFilters,
  time, untouched, welcome, windowParams,
} from './lib.js';

const PAGE = 100;
const MOST = 2000;

export default function traces(root, { get }) {
  let rows;
  let scatter;
  let facets = {};
  let more = false;
  let loading = false;

  const slowest = () => param('sort') === 'duration';
  const filters = () => ({ ...filterParams(), ...windowParams('all'), sort: slowest() ? 'duration' : '' });

  async function update(reason) {
    if (reason !== 'live') draw();
    const [page, dots] = await Promise.all([
      get('/api/traces', { ...filters(), facets: 1, limit: slowest() && rows && rows.length > PAGE ? 500 : PAGE }),
      // The scatter keeps the whole window, so that a brushed box stays visible in its surroundings.
      get('/api/scatter', { ...filterParams(), last: param('last') === 'all' ? '' : param('last'), min_ms: '', max_ms: '' }),
    ]);
    const last = page.traces.at(-1)?.listed_us ?? Infinity;
    const older = reason === 'live' && !slowest() ? (rows ?? []).filter((row) => row.listed_us < last) : [];
    rows = distinct([...page.traces, ...older]).slice(0, MOST);
    if (!older.length) more = page.more;
    facets = page.facets ?? {};
    scatter = dots;
    draw();
  }

  async function loadMore() {
    if (loading || !more || !rows?.length || rows.length >= MOST) return;
    loading = true;
    const asked = location.search;
    const paging = slowest() ? { limit: 500 } : { limit: PAGE, before_ns: rows.at(-1).listed_ns };
    try {
      // Not through `get`: a live update would abort it.
      const page = await api('/api/traces', { ...filters(), ...paging });
      if (asked !== location.search || !root.isConnected) return;
      rows = slowest() ? page.traces : distinct([...rows, ...page.traces]);
      more = page.more && !slowest();
      draw();
    } finally {
      loading = false;
    }
  }

  /** A trace is listed by its newest span that was asked for, so an older one may list it again. */
  const distinct = (traces) => [...new Map(traces.map((row) => [row.trace_id, row])).values()];

  function draw() {
    render(rows?.length === 0 && untouched() && !query().size ? welcome() : page(), root);
    const body = root.querySelector('tbody');
    if (!body || !rows) return;
    const longest = Math.max(1, ...rows.map((row) => row.duration_ns));
    keyed(body, rows, (row) => row.trace_id, (row) => traceRow(row, longest));
    watch.disconnect();
    const end = root.querySelector('.end');
    if (end) watch.observe(end);
  }

  const watch = atEnd(loadMore);

  const page = () => html`<div class="head"><h1>Traces</h1><div class="toolbar"><div class="files">
      <a class="button ghost" href=${href('/api/export', filters())} download="traces.jsonl" title="These traces as OTLP-JSON">${icon('load')}Export</a>
      <label class="button ghost" title="Load a file of OTLP-JSON">${icon('up')}Import<input class="sr" type="file" accept=".json,.jsonl,.ndjson" @change=${load}></label></div>${rangePicker('all')}</div></div>
    ${toolbar()}
    <section class="panel"><div class="body">${scatter ? html`<rs-chart .spec=${scatterSpec(scatter)}></rs-chart>` : html`<div class="plot-wait"></div>`}</div></section>
    ${narrowing(facets)}
    <section class="panel" aria-label="Traces">${rows ? nothing : skeleton(10)}
      <table class="rows ${rows?.some((row) => row.services.length > 1) ? '' : 'lone'}" ?hidden=${!rows?.length}><caption class="sr">Traces</caption><thead><tr><th class="time" scope="col">Started</th><th class="name" scope="col">Name</th><th class="svc" scope="col">Services</th>
        <th class="dur" scope="col">Duration</th><th class="num spans" scope="col">Spans</th><th class="num state" scope="col">Status</th></tr></thead><tbody></tbody></table>
      ${rows?.length === 0 ? emptyState('No trace matches', 'Widen the time range or remove a filter.') : nothing}
      ${rows?.length ? html`<p class="end muted">${rows.length >= MOST ? `The first ${integer(MOST)}; narrow the filter for the rest` : more ? 'Loading more…' : `${plural(rows.length, 'trace')}, nothing older`}</p>` : nothing}</section>`;

  const toolbar = () => html`<div class="toolbar">${searchBox('Search traces', 'Span name, or key=value', takeFilters)}
      <span class="between">${limit('min_ms', 'Minimum')}–${limit('max_ms', 'Maximum')} ms</span>
      ${segments('Status', [['', 'All'], ['error', 'Errors'], ['ok', 'OK']], param('status'), (status) => setQuery({ status }))}
      ${segments('Order', [['', 'Newest'], ['duration', 'Slowest']], param('sort'), (sort) => setQuery({ sort }))}
      <button type="button" aria-pressed=${param('health') === '1'} @click=${() => setQuery({ health: param('health') ? null : 1 })}>Health checks</button></div>`;

  const limit = (key, label) => html`<input type="number" min="0" step="any" aria-label="${label} duration in milliseconds" placeholder=${label.slice(0, 3).toLowerCase()}
    .value=${param(key)} @change=${(event) => setQuery({ [key]: event.target.valueAsNumber || null })}>`;

  async function load(event) {
    const [file] = event.target.files;
    event.target.value = '';
    const got = await api('/api/import', {}, { method: 'POST', headers: { 'content-type': 'application/json' }, body: file }).catch((error) => ({ error }));
    say(got.error ? got.error.message : `Imported ${plural(got.spans, 'span')}, ${plural(got.logs, 'log')}, ${plural(got.points, 'point')}`);
  }

  return { update, destroy: () => watch.disconnect() };
}

function narrowing(facets) {
  const [from, to, min, max] = ['from_us', 'to_us', 'min_ms', 'max_ms'].map((key) => param(key));
  const operations = param('operation') ? [] : facets.operations ?? [];
  return html`<div class="chips">${filterChips(['service', 'operation', 'kind', 'run'])}
    ${from || to || min || max ? html`<a class="button facet" href=${href('/compare', { service: param('service'), operation: param('operation') || facets.operations?.[0]?.value, sel_from_us: from, sel_to_us: to, sel_min_ms: min, sel_max_ms: max })}>Compare with the rest</a>` : nothing}
    ${serviceFacets(facets.services ?? [])}
    ${operations.length > 1 ? html`<select aria-label="Operation" .value=${''} @change=${(event) => setQuery({ operation: event.target.value })}><option value="">Any operation</option>
      ${operations.map(({ value, count: n }) => html`<option value=${value}>${value} (${integer(n)})</option>`)}</select>` : nothing}</div>`;
}

function scatterSpec({ points, operations, total, sampled }) {
  const ms = (key) => (param(key) ? Number(param(key)) * 1e6 : undefined);
  const us = (key) => (param(key) ? Number(param(key)) : undefined);
  const box = { x0: us('from_us'), x1: us('to_us'), y0: ms('min_ms'), y1: ms('max_ms') };
  const service = (name) => shell.status?.services.find((each) => name.startsWith(`${each} `)) ?? name.split(' ')[0];
  const parts = operations.map((name) => [service(name), name.slice(service(name).length + 1)]);
  const colors = parts.map(([of, name]) => `c${hue(of, name)}`);
  const calls = operations.map(() => 0);
  for (const [, , , op] of points) calls[op]++;
  const named = Object.groupBy([...operations.keys()].sort((a, b) => calls[b] - calls[a]), (op) => parts[op][Number(alone())]);
  return {
    kind: 'scatter', title: 'Latency', height: 210, log: true, x: [], format: duration, columns: ['Operation', 'Status'],
    series: Object.entries(named).slice(0, 6).map(([label, [op]]) => ({ label, color: colors[op], values: [] })),
    note: points.length ? `${sampled ? `${integer(points.length)} of ` : ''}${plural(total, 'request')} · drag to select, click to open · × failed` : '',
    points: points.map(([x, y, failed, op, id]) => ({ x, y: Math.max(1, y), error: Boolean(failed), color: failed ? '--error' : colors[op], label: operations[op], id, row: [operations[op], failed ? 'error' : 'ok'] })),
    selection: Object.values(box).some((value) => value !== undefined) ? box : undefined,
    onBrush: ({ x0, x1, y0, y1 }) => setQuery({ from_us: x0, to_us: x1, min_ms: y0 && plain(y0), max_ms: y1 && plain(y1) }),
    onPoint: (point) => navigate(`/t/${encodeURIComponent(point.id)}`),
  };
}

/** Nanoseconds as milliseconds without an exponent, which the API refuses. */
const plain = (ns) => String(Number(Number((ns / 1e6).toPrecision(4)).toFixed(6)));

function traceRow(row, longest) {
  const color = hue(row.service, row.root);
  const share = (row.duration_ns / longest) * 100;
  return html`<td class="time mono" title=${dateTime(row.start_us)}>${time(row.start_us)}</td>
    <td class="name"><a data-row href=${`/t/${encodeURIComponent(row.trace_id)}`}>${dot(row.service, color)}<span class="clip">${row.root}</span>${row.orphan ? html`<span class="badge" title="The parent span has not arrived">partial</span>` : nothing}</a></td>
    <td class="svc"><span class="dots">${row.services.slice(0, 6).map((each) => dot(each))}</span><span class="sr">${row.services.join(', ')}</span></td>
    <td class="dur"><svg class="meter c${color} ${row.status === 'ERROR' ? 'error' : ''}" aria-hidden="true"><rect width="${Math.max(0.5, share)}%" height="100%" rx="2"></rect></svg><span>${duration(row.duration_ns)}</span></td>
    <td class="num spans"><span>${integer(row.spans)}<span class="unit"> ${row.spans === 1 ? 'span' : 'spans'}</span></span></td>
    <td class="num state">${row.errors ? html`<span class="badge error" title="Spans with an error">${plural(row.errors, 'error')}</span> ` : nothing}${code(row)}</td>`;
}
