/** Tools over all that is stored: Compare, Doctor and SQL. */
import {
  ApiError, badge, chip, choice, dataTable, dateTime, duration, emptyState, href, html, icon, integer, nothing, number, param, percent,
  plural, post, rangePicker, render, setQuery, skeleton, tabs, text, timeShort, untouched, waiting, windowParams,
} from './lib.js';

/** Fewer calls than this say nothing about a 95th percentile. */
const ENOUGH = 30;
const BRUSH = ['sel_from_us', 'sel_to_us', 'sel_min_ms', 'sel_max_ms'];
const UNBRUSHED = Object.fromEntries(BRUSH.map((key) => [key, null]));
const VIEWS = { slow: [askSlow, slow], runs: [askRuns, runs] };

/** What slow calls have in common that the rest have not, and one run of a service against another. */
export function compare(root, { get }) {
  let data;
  let done = false;
  const tab = () => param('tab', 'slow');

  async function update(reason) {
    // A comparison is for reading: once there is one, only the reader changes it.
    if (reason === 'live' && done) return false;
    done = false;
    draw();
    const asked = tab();
    data = { asked, ...(await VIEWS[asked][0](get)) };
    done = Boolean(data.b);
    draw();
  }

  const draw = () => render(html`<div class="head"><h1>Compare</h1>${tab() === 'slow' ? rangePicker('all') : nothing}</div>
    ${tabs('Comparison', [['slow', 'Slow against the rest'], ['runs', 'Run against run']], tab(), (id) => setQuery({ tab: id }), 'comparison')}
    <div id="comparison" role="tabpanel" aria-labelledby="comparison-tab">${data?.asked !== tab() ? html`<section class="panel">${skeleton(12)}</section>` : data.b ? VIEWS[tab()][1](data) : untouched() ? waiting() : emptyState('Nothing to compare', 'It takes served requests; runs are told apart by service.instance.id.')}</div>`, root);

  return { update };
}


const key = ({ service, name }) => JSON.stringify([service, name]);

async function askSlow(get) {
  const { operations } = await get('/api/overview', { last: 'all', ...windowParams('all') });
  const [service, name] = [param('service'), param('operation')];
  const b = name ? { service, name } : operations.find((each) => !service || service === each.service);
  const brush = Object.fromEntries(BRUSH.map((each) => [each, param(each)]));
  return { operations, b, brush, ...(b && await get('/api/compare', { ...windowParams('all'), ...brush, service: b.service, operation: b.name, threshold_ms: param('threshold_ms') })) };
}

function slow({ operations, b, brush, selected, rest, threshold_ns, attributes }) {
  const all = operations.some((each) => key(each) === key(b)) ? operations : [b, ...operations];
  const brushed = BRUSH.some((each) => brush[each]);
  const [from, to] = [Number(brush.sel_from_us), Number(brush.sel_to_us)];
  const choose = (value) => { const [service, operation] = JSON.parse(value); setQuery({ service, operation, threshold_ms: null, ...UNBRUSHED }); };
  return html`<div class="toolbar">${choice('Operation', all.map((each) => [key(each), `${each.name} · ${each.service}`]), key(b), choose)}
      ${brushed ? chip('brushed', [...between(from && timeShort(from), to && timeShort(to)), ...between(brush.sel_min_ms, brush.sel_max_ms, ' ms')].join(', '), () => setQuery(UNBRUSHED)) : html`<label class="choice"><span class="muted">Slow is above</span>
        <input type="number" min="0" step="any" placeholder="slowest 5 %" .value=${param('threshold_ms')} @change=${(event) => setQuery({ threshold_ms: event.target.value })}><span class="muted">ms</span></label>`}</div>
    <section class="panel"><header><h2>${plural(selected, brushed ? 'selected call' : 'slow call')} against ${integer(rest)} others</h2>
      <span class="muted">${threshold_ns ? `slow: ${duration(threshold_ns)} or more` : nothing}</span><span class="legend"><span><i class="dot error"></i>${brushed ? 'selected' : 'slow'}</span><span><i class="dot"></i>rest</span></span></header>
      ${attributes.length ? dataTable({ caption: 'Attributes by how much their shares differ', columns: columns(b, threshold_ns, brush), rows: attributes })
        : emptyState('Nothing sets them apart', 'Choose another operation, a wider time range or another threshold.')}</section>`;
}

const between = (low, high, unit = '') => (low || high ? [`${low || ''} – ${high || ''}${unit}`] : []);

function columns({ service, name: operation }, threshold_ns, { sel_from_us: from_us, sel_to_us: to_us, sel_min_ms, sel_max_ms: max_ms }) {
  const min_ms = sel_min_ms || threshold_ns / 1e6 || '';
  const to = (row) => href('/traces', { ...(from_us || to_us ? { from_us, to_us } : windowParams('all')), service, operation, attr: `${row.key}=${text(row.value)}`, min_ms, max_ms });
  const bar = (share, y, name) => html`<svg y=${y} height="7"><rect class=${name} width="${Math.max(0.4, share * 100)}%" height="7" rx="2"></rect></svg>`;
  return [
    { id: 'attribute', label: 'Attribute', cell: (row) => html`<a data-row href=${to(row)}><span class="muted mono">${row.key}</span> <b>${text(row.value)}</b></a>` },
    { id: 'bars', label: 'Share of the calls', cell: (row) => html`<svg class="shares" height="18" aria-hidden="true">${bar(row.selected_share, 0, 'error')}${bar(row.rest_share, 10, '')}</svg>` },
    { id: 'share', label: threshold_ns ? 'Slow' : 'Selected', num: true, cell: (row) => html`<b>${percent(row.selected_share)}</b>` },
    { id: 'share', label: 'Rest', num: true, cell: (row) => html`<span class="unit">against </span><span class="muted">${percent(row.rest_share)}</span>` },
    { id: 'share', label: 'More often', num: true, cell: (row) => (row.rest_share ? `${number(row.selected_share / row.rest_share)}×` : badge('only here', 'error')) },
  ];
}


async function askRuns(get) {
  const { runs } = await get('/api/runs');
  const before = (run) => runs.find((each) => each.service === run.service && each.first_us < run.first_us);
  const find = (name) => runs.find(({ run }) => run === param(name));
  const b = find('b') ?? runs.find(before) ?? runs[0];
  const a = find('a') ?? (b && before(b));
  return { runs, a, b, rows: a && (await get('/api/compare/runs', { a: a.run, b: b.run })).operations.sort((x, y) => ratio(y) - ratio(x)) };
}

function runs({ runs, a, b, rows }) {
  const line = (run) => [run.service, dateTime(run.first_us).slice(0, -4), run.version, run.revision?.slice(0, 7)].filter(Boolean).join(' · ');
  const pick = (label, name, run) => html`<section class="panel run">${choice(label, runs.map((each) => [each.run, line(each)]), run?.run, (value) => setQuery({ a: param('a', a?.run), b: param('b', b.run), [name]: value }))}
    <span class="muted">${run ? `${plural(run.spans, 'span')}, ${plural(run.errors, 'error')}` : nothing}</span></section>`;
  const told = [['slower', 'slower'], ['faster', 'faster'], ['same', 'about the same'], ['', 'too few to tell']].map(([what, words]) => [rows?.filter((row) => turn(row) === what).length, words]);
  return html`<div class="columns">${pick('Before', 'a', a)}${pick('After', 'b', b)}</div><section class="panel">
    ${a ? html`<header><h2>${told.filter(([n]) => n).map((each) => each.join(' ')).join(', ')}</h2><span class="muted">a comparison takes ${ENOUGH} calls each</span></header>${dataTable({ caption: 'Operations of both runs', columns: RUN_COLUMNS, rows })}`
    : emptyState('Only one run so far', 'Restart the program, let it serve the same requests again, and its two starts stand side by side here.')}</section>`;
}

/** How much slower; 0 where there are too few calls to tell. */
const ratio = ({ a, b }) => (a?.count >= ENOUGH && b?.count >= ENOUGH ? b.p95_ns / a.p95_ns : 0);
const turn = (row) => (!ratio(row) ? '' : ratio(row) > 1.1 ? 'slower' : ratio(row) < 0.9 ? 'faster' : 'same');

const both = (id, format) => ({ id, label: id, num: true, cell: ({ a, b }) => html`<span class="unit">${id} </span><span class="muted">${a ? format(a) : '–'} →</span> ${b ? format(b) : '–'}` });

const RUN_COLUMNS = [
  { id: 'operation', label: 'Operation', cell: (row) => html`<a data-row href=${href('/traces', { service: row.service, operation: row.name, kind: row.kind })}>${row.name} <small class="muted">${row.kind.toLowerCase()}</small></a>` },
  both('Calls', (side) => integer(side.count)), both('Errors', (side) => percent(side.errors / side.count)), ...['p50', 'p95', 'p99'].map((name) => both(name, (side) => duration(side[`${name}_ns`]))),
  { id: 'change', label: 'p95 change', num: true, cell: change },
];

function change(row) {
  const by = ratio(row);
  if (!by) return badge(row.a ? (row.b ? 'too few calls' : 'gone') : 'new', 'accent');
  return html`<b class=${turn(row)}>${by >= 2 ? `${by.toFixed(1)}×` : `${by < 1 ? '−' : '+'}${Math.abs(by * 100 - 100).toFixed(0)} %`}</b>`;
}

/** It takes the store seconds to answer. */
const PAUSE_MS = 20_000;

/** What is wrong with the telemetry itself, worst first, and where the specification says so. */
export function doctor(root, { get }) {
  let at = -Infinity;

  async function update(reason) {
    if (reason === 'mount') render(page(html`<section class="panel">${skeleton(12)}</section>`), root);
    if (reason === 'live' && performance.now() - at < PAUSE_MS) return false;
    const { checked: { spans, logs, points }, findings } = await get('/api/doctor');
    at = performance.now();
    render(page(findings.length ? html`<ol class="findings">${Object.values(Object.groupBy(findings, ({ rule, message }) => rule + message)).map((each) => finding(each))}</ol>` : spans + logs + points ? healthy : waiting(),
      html`<span class="muted">Checked the latest ${plural(spans, 'span')}, ${plural(logs, 'log record')}, ${plural(points, 'metric point')}</span>`), root);
  }

  return { update };
}

const page = (content, note) => html`<div class="head"><h1>Doctor</h1>${note}</div>${content}`;

const healthy = emptyState('Nothing to complain about',
  'Services have names, parents arrived, span names are templates, attributes stay few, failures are marked, histograms lead to traces.');

/** What was found is the heading, above where; a word of prose begins it with a capital, a name stays as it is. */
const finding = (all, { severity, rule, message, summary, examples, link } = all[0]) => html`<li class="panel"><header class=${severity === 'problem' ? 'error' : 'warn'}>${icon(severity === 'problem' ? 'alert' : 'help')}<h2>${message.replace(/^[a-z]+(?= )/, (word) => word[0].toUpperCase() + word.slice(1))}</h2>
    ${badge(severity, severity === 'problem' ? 'error' : 'warn')}<b title="How often">${integer(all.reduce((sum, { count }) => sum + count, 0))}×</b></header>
  <div class="body">${all.slice(0, 4).map(({ where, scope }) => html`<p class="mono where">${where}${scope ? ` · ${scope}` : ''}</p>`)}
    ${all.length > 4 ? html`<p class="muted">and at ${integer(all.length - 4)} more places</p>` : nothing}<p class="muted">Rule <span class="mono">${rule}</span>: ${summary}.</p>
    <div class="toolbar">${examples.map((id) => html`<a class="button mono" data-row href=${`/t/${encodeURIComponent(id)}`} aria-label="Example trace ${id}">${id.slice(0, 8)}${icon('right')}</a>`)}
      ${link?.startsWith('https://opentelemetry.io/') ? html`<a class="link push" href=${link} target="_blank" rel="noreferrer noopener">What the specification says</a>` : nothing}</div></div></li>`;

const ROW = 30;

/** One SELECT over the store. The query stands in the URL; of a long result only the rows in sight are drawn. */
export function sql(root, { get }) {
  let schema;
  let result;
  let draft = '';
  let asked = '';
  let problem = '';
  let running = false;

  async function update(reason) {
    if (reason === 'live' && schema) return false;
    draft = param('query') || draft;
    draw();
    if (param('query') && draft !== asked) await run();
    schema ??= await get('/api/sql/schema');
    if (draft) return draw();
    // The first example shows what an answer looks like.
    draft = schema.examples[0]?.query ?? '';
    if (untouched()) draw();
    else await run();
  }

  async function run() {
    [asked, running] = [draft, true];
    draw();
    const mine = draft;
    try {
      const answer = await post('/api/sql', { query: mine });
      if (mine === asked) [result, problem] = [answer, ''];
    } catch (error) {
      asked = '';
      if (!(error instanceof ApiError)) throw error;
      problem = error.message;
    } finally {
      running = false;
      draw();
    }
  }

  // The URL may hold the same query already: then it is asked again.
  const submit = () => (draft === param('query') ? run() : setQuery({ query: draft }));

  function edit(value) {
    draft = value;
    draw();
  }

  function insert(word) {
    const field = root.querySelector('textarea');
    field.setRangeText(word, field.selectionStart, field.selectionEnd, 'end');
    field.focus();
    edit(field.value);
  }

  function press(event) {
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    submit();
  }

  function draw() {
    render(page(), root);
    const host = root.querySelector('.result');
    if (host) rows(host, result);
  }

  const page = () => html`<div class="head"><h1>SQL</h1></div><div class="bench"><div>
      <section class="panel editor"><textarea class="code" data-search aria-label="Query" aria-invalid=${Boolean(problem)} aria-describedby="problem" spellcheck="false"
          .value=${draft} @input=${(event) => edit(event.target.value)} @keydown=${press}></textarea><p id="problem" role="alert" class="error-text">${problem}</p>
        <div class="toolbar"><button class="primary" type="button" ?disabled=${running} @click=${submit}>${icon('play')}Run</button><span class="muted"><kbd>Ctrl</kbd><kbd>Enter</kbd></span>
          <span class="push muted" role="status">${result && !problem ? `${result.truncated ? 'the first ' : ''}${plural(result.rows.length, 'row')} in ${result.elapsed_ms.toFixed(1)} ms` : nothing}</span></div></section>
      <section class="panel" aria-label="Result">${result?.rows.length ? html`<div class="result" tabindex="0" role="region" aria-label="Rows" @scroll=${(event) => rows(event.target, result)}></div>`
        : result ? emptyState('No rows', 'Nothing matches this query.') : problem ? nothing : running || !untouched() ? skeleton(8) : emptyState('Ask the store', 'Run the example above, choose another, or write a SELECT over the tables listed here.')}</section></div>
    <aside class="panel" aria-label="Examples and tables">${schema ? html`<h2>Examples</h2>${schema.examples.map(({ title, query }) => html`<button class="ghost" type="button" @click=${() => setQuery({ query })}>${title}</button>`)}
      <h2>Tables</h2>${schema.tables.map((table, i) => html`<details ?open=${!i}><summary class="mono">${table.name}</summary><p class="muted">${table.description}</p>
        ${table.columns.map(({ name, type }) => html`<button class="ghost" type="button" title="Insert ${name}" @click=${() => insert(name)}><span class="mono">${name}</span><small>${type.toLowerCase()}</small></button>`)}</details>`)}` : skeleton(12)}</aside></div>`;

  return { update };
}

const tone = ({ type }) => (/^(\w*INT(EGER)?|DOUBLE|FLOAT|DECIMAL.*)$/.test(type) ? 'num' : '');
const show = (value) => text(Number.isInteger(value) || typeof value !== 'number' ? value : Number(value.toPrecision(6)));

function rows(host, { columns, rows: all }) {
  const first = Math.max(0, Math.floor(host.scrollTop / ROW) - 10);
  const seen = all.slice(first, first + 60);
  // Widths from the first rows, or each scroll would shift the columns.
  const widths = columns.map(({ name, type }, i) => Math.min(420, 28 + 8.8 * Math.max(name.length, type.length, ...all.slice(0, 50).map((row) => show(row[i]).length))));
  const space = (n) => html`<tr aria-hidden="true" height=${n * ROW}><td colspan=${columns.length}></td></tr>`;
  render(html`<table class="plain" width=${widths.reduce((a, b) => a + b, 0)}><caption class="sr">Result</caption><colgroup>${widths.map((width) => html`<col width=${width}>`)}</colgroup>
    <thead><tr>${columns.map((column) => html`<th scope="col" class=${tone(column)}>${column.name}<small>${column.type.toLowerCase()}</small></th>`)}</tr></thead>
    <tbody>${space(first)}${seen.map((row) => html`<tr>${row.map((value, i) => html`<td class="clip ${tone(columns[i])}">${cell(value, columns[i])}</td>`)}</tr>`)}${space(all.length - first - seen.length)}</tbody></table>`, host);
}

const cell = (value, { name }) => (value == null ? html`<span class="muted">null</span>`
  : name === 'trace_id' && /^[0-9a-f]{32}$/.test(value) ? html`<a class="link" href="/t/${value}">${value}</a>` : show(value));
