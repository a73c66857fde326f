/** Logs: a tail, newest on top. Whoever scrolls, selects or opens a record is reading: then it holds still and counts. */
import './charts.js';
import {
  atEnd, badge, copyButton, dateTime, dot, emptyState, filterChips, filterParams, href, html, icon, integer, keyed, nothing, pairs, param, plural, query,
  rangePicker, render, searchBox, segments, serviceFacets, setQuery, shell, skeleton, takeFilters, text, time, untouched, welcome, windowParams,
} from './lib.js';

const PAGE = 200;
const MOST = 4000;
const SERIES = [['ERROR', '--error'], ['WARN', '--warn'], ['INFO', '--accent'], ['DEBUG', '--muted']];

export default function logs(root, { get }) {
  let rows;
  let histogram;
  let more = false;
  let fresh = 0;
  let loading = false;
  let asked = '';

  const filters = () => ({ ...filterParams(), ...windowParams('all'), severity: param('severity'), trace: param('trace'), limit: PAGE });
  const opened = () => query().getAll('open');
  const open = (ids) => setQuery({ open: ids }, { push: false });
  const selecting = () => getSelection()?.type === 'Range' && root.contains(getSelection()?.anchorNode ?? null);
  const unknown = (page) => {
    const known = new Set(rows?.map(({ id }) => id));
    return page.logs.filter(({ id }) => !known.has(id));
  };

  async function update(reason) {
    const key = JSON.stringify(filters());
    if (reason !== 'live') draw();
    if (reason === 'url' && key === asked) return false;
    const page = await get('/api/logs', filters());
    const added = unknown(page);
    const held = key === asked && (scrollY > 40 || opened()[0] || selecting());
    // Where all are new, more may have arrived than a page holds; older rows would hide the gap.
    if (key !== asked || (!held && added.length === PAGE)) [rows, more] = [page.logs, page.more];
    else if (!held) follow(added);
    [histogram, asked, fresh] = [page.histogram, key, held ? added.length : 0];
    draw();
  }

  /** Late records go where their time puts them; the oldest can be asked for again. */
  function follow(added) {
    rows = [...added, ...(rows ?? [])].sort((a, b) => b.time_us - a.time_us);
    more ||= rows.length > 2 * PAGE;
    rows = rows.slice(0, 2 * PAGE);
  }

  async function older() {
    if (loading || !more || !rows || rows.length >= MOST) return;
    loading = true;
    try {
      // One microsecond more, for records of the same moment that the last page cut off.
      const page = await get('/api/logs', { ...filters(), before_us: rows.at(-1).time_us + 1 });
      const added = unknown(page);
      rows = [...rows, ...added];
      more = page.more && added.length > 0;
      draw();
    } finally {
      loading = false;
    }
  }

  function resume() {
    getSelection()?.empty();
    scrollTo(0, 0);
    asked = '';
    open([]);
  }

  function toggle(event, id) {
    event.preventDefault();
    if (!selecting()) open(opened().includes(id) ? opened().filter((each) => each !== id) : [...opened(), id]);
  }

  const watch = atEnd(older);

  function draw() {
    render(rows?.length === 0 && untouched() ? welcome() : page(), root);
    const list = root.querySelector('.tail');
    if (!list || !rows) return;
    const ids = opened();
    keyed(list, rows, ({ id }) => id, (row) => record(row, ids.includes(row.id), toggle), 'li');
    watch.disconnect();
    watch.observe(root.querySelector('.end'));
  }

  const page = () => html`<div class="head"><h1>Logs</h1>${rangePicker('all')}</div>
    <div class="toolbar">${searchBox('Search logs', 'Text, or key=value', takeFilters)}
      ${segments('Severity, at least', [['', 'All'], ['DEBUG', 'Debug'], ['INFO', 'Info'], ['WARN', 'Warn'], ['ERROR', 'Error']], param('severity'), (severity) => setQuery({ severity }))}</div>
    <div class="chips">${filterChips(['trace', 'service', 'run'])}${serviceFacets((shell.status?.services ?? []).map((value) => ({ value })))}</div>
    <section class="panel"><div class="body">${histogram ? html`<rs-chart .spec=${bars(histogram)}></rs-chart>` : html`<div class="bars-wait"></div>`}</div></section>
    <div class="arrivals">${fresh ? html`<button class="primary" type="button" @click=${resume}>${icon('up')}${fresh} new</button>` : nothing}</div>
    <section class="panel" aria-label="Records">${rows ? nothing : skeleton(12)}<ol class="tail"></ol>
      ${rows?.length ? nothing : rows && emptyState('No record matches', 'Widen the time range, lower the severity or remove a filter.')}
      <p class="end muted" ?hidden=${!rows?.length}>${more ? ((rows?.length ?? 0) < MOST ? 'Loading older…' : 'Narrow the time for older ones') : 'Nothing older'}</p></section>`;

  return {
    update,
    escape() {
      const any = opened().length > 0;
      if (any) open([]);
      return any;
    },
    destroy: () => watch.disconnect(),
  };
}

function bars({ steps, counts }) {
  const series = SERIES.filter(([label]) => counts[label]?.some(Boolean)).map(([label, color]) => ({ label, color, values: counts[label] }));
  return {
    kind: 'bars', title: plural(series.flatMap(({ values }) => values).reduce((sum, n) => sum + n, 0), 'record'), note: 'drag or click to narrow', height: 110, x: steps, series, format: integer,
    onBrush: ({ x0, x1 }) => setQuery({ from_us: x0, to_us: x1 }),
  };
}

const tone = (severity) => (severity >= 17 ? 'error' : severity >= 13 ? 'warn' : severity < 9 ? 'debug' : '');
const to = (row) => href(`/t/${encodeURIComponent(row.trace_id)}`, { span: row.span_id });

const record = (row, open, toggle) => html`<details ?open=${open}><summary class=${tone(row.severity_number)} data-row @click=${(event) => toggle(event, row.id)}>
    <time class="mono muted" title=${dateTime(row.time_us)}>${time(row.time_us)}</time><span class="sev">${row.severity}</span>${dot(row.service)}<span class="clip">${row.event_name ? badge(row.event_name) : nothing} ${row.body}</span></summary>
  ${open ? detail(row) : nothing}</details>${row.trace_id ? html`<a class="to muted" href=${to(row)} aria-label="Open the trace">trace${icon('right')}</a>` : nothing}`;

function detail(row) {
  const { 'exception.type': type, 'exception.message': message, 'exception.stacktrace': stack, ...rest } = Object.fromEntries(row.attributes);
  const { body, time_us, attributes, id, severity, ...facts } = row;
  const filter = (key, value) => html`<button class="ghost" type="button" aria-label="Filter by ${key}" title="Only records with this" @click=${() => setQuery({ attr: [...query().getAll('attr'), `${key}=${text(value)}`], open: null })}>${icon('filter')}</button>`;
  return html`<div class="record"><pre tabindex="0">${body}</pre>${type || stack ? html`<b class="error-text">${type}: ${message}</b><pre class="stack" tabindex="0">${stack}</pre>` : nothing}
    <div class="toolbar">${row.trace_id ? html`<a class="button" href=${to(row)}>Open the trace</a><button type="button" @click=${() => setQuery({ trace: row.trace_id, open: null, q: null, severity: null, service: null })}>All logs of this trace</button>` : nothing}${copyButton(JSON.stringify(row, null, 2), 'Copy as JSON')}</div>
    <div class="columns">${pairs(Object.entries(rest), filter)}${pairs(Object.entries(facts).filter(([, value]) => value))}</div></div>`;
}
