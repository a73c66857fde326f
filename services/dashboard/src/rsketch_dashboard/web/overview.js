/** What goes on: the overview and the service map. */
import { sparkline } from './charts.js';
import {
  alone, bytes, code, count, dataTable, dot, duration, emptyState, href, html, hue, icon, integer, lead, navigate, nothing, param, percent,
  plural, query, rangePicker, rate, render, segments, setQuery, shell, skeleton, slot, sorted, svg, timeShort, untouched, welcome,
  windowParams,
} from './lib.js';

/** Rate, errors and durations of every operation, and the traces worth opening first. */
export function overview(root, { get }) {
  let data;

  async function update(reason) {
    if (reason !== 'live') draw();
    data = await get('/api/overview', { ...windowParams('15m'), service: param('service') });
    data.from = lead(data.steps, (i) => [...data.operations, ...data.outgoing].some(({ counts }) => counts[i]));
    draw();
  }

  const draw = () => render(data && !data.totals.spans && untouched() && !query().size ? welcome() : page(), root);

  const page = () => html`<div class="head"><h1>Overview</h1>${rangePicker('15m')}</div>
    <div class="tiles">${tiles(data)}</div>
    <section class="panel"><header><h2>${side() === 'outgoing' ? 'Outgoing calls' : 'Operations'}</h2>${segments('Direction', [['', 'Incoming'], ['outgoing', 'Outgoing']], side(), (dir) => setQuery({ dir }))}</header>
      ${data ? operations(data[side() || 'operations'], data) : skeleton(7)}</section>
    <div class="columns">${list('Slowest traces', data?.slowest, 'No trace in this window')}${list('Failed traces', data?.failed, 'Nothing failed in this window')}</div>`;

  return { update };
}

const side = () => param('dir');
/** What a rate is of: nothing was there before the first step that is shown. */
const seconds = ({ from, steps, window }) => (window.to_us - (from ? steps[from] : window.from_us)) / 1e6;

function tiles(data) {
  const totals = data?.totals ?? {};
  const sum = (key) => data.steps.map((_, i) => data.operations.reduce((n, operation) => n + (operation[key][i] ?? 0), 0)).slice(data.from);
  const share = totals.requests ? totals.errors / totals.requests : data ? 0 : null;
  const { status } = shell;
  return html`${tile('Requests', rate(data && totals.requests / seconds(data)), data ? `${integer(totals.requests)} in this window` : '', data && sparkline(sum('counts')))}
    ${tile('Errors', percent(share), data ? `${integer(totals.errors)} failed` : '', data && sparkline(sum('errors_by_step')), totals.errors ? 'error' : '')}
    ${tile('Duration p95', duration(totals.p95_ns), data ? `p50 ${duration(totals.p50_ns)} · p99 ${duration(totals.p99_ns)}` : '')}
    ${tile('Stored spans', count(status?.spans), status ? `${count(status.logs)} logs · ${count(status.points)} points · ${bytes(status.bytes)}` : '')}`;
}

const tile = (label, value, note, chart = nothing, tone = '') => html`<section class="tile ${tone}"><h2>${label}</h2><b>${value}</b><p class="muted">${note}</p>${chart}</section>`;

function operations(rows, data) {
  const { from } = data;
  if (!rows?.length) return emptyState('No operation in this window', 'Widen the time range, or send a request.');
  const sort = param('sort', '-count');
  const value = (row, id) => (id === 'errors' ? row.errors / row.count : row[id]);
  const open = (row) => href('/traces', { service: row.service, operation: row.name, kind: side() ? row.kind : '', last: param('last', '15m') });
  const ns = (id, label) => ({ id, label, num: true, cell: (row) => duration(row[id]) });
  return dataTable({
    caption: 'Operations', rows: sorted(rows, sort, value), sort, onSort: (next) => setQuery({ sort: next }, { push: false }),
    columns: [
      { id: 'name', label: 'Operation', cell: (row) => html`<a data-row href=${open(row)}>${dot(row.service, hue(row.service, row.name))}<span class="clip">${row.name}</span></a>` },
      ...(alone() ? [] : [{ id: 'service', label: 'Service', cell: (row) => html`<span class="muted clip">${row.service}</span>` }]),
      { id: 'trend', label: 'Trend', sort: false, cell: (row) => html`<span class="c${hue(row.service, row.name)}">${sparkline(row.counts.slice(from), row.errors_by_step.slice(from))}</span>` },
      { id: 'count', label: 'Rate', num: true, cell: (row) => html`<span title="${integer(row.count)} in this window">${rate(row.count / seconds(data))}</span>` },
      { id: 'errors', label: 'Errors', num: true, cell: (row) => html`<span class=${row.errors ? 'error-text' : 'muted'}>${percent(row.errors / row.count)}</span>` },
      ns('p50_ns', 'p50'), ns('p95_ns', 'p95'), ns('p99_ns', 'p99'),
    ],
  });
}

const list = (heading, rows, empty) => html`<section class="panel"><header><h2>${heading}</h2></header>${!rows ? skeleton(5) : rows.length ? html`<ol class="list">${rows.map((row) => html`
  <li><a data-row href=${`/t/${encodeURIComponent(row.trace_id)}`}>${dot(row.service, hue(row.service, row.root))}<span class="clip">${row.root}</span>${code(row)}<span class="num">${duration(row.duration_ns)}</span><span class="muted when">${timeShort(row.start_us)}</span></a></li>`)}</ol>` : html`<p class="body muted">${empty}</p>`}</section>`;

const [BOX, TALL, GAP, ACROSS] = [248, 62, 26, 108];

/** Who calls whom, in a small layered layout from left to right, with a table of the same. */
export function map(root, { get }) {
  let data;
  let focus = '';

  async function update(reason) {
    if (reason !== 'live') draw();
    data = await get('/api/map', windowParams('15m'));
    draw();
  }

  function draw() {
    const empty = data?.nodes.length === 0;
    const body = !data ? skeleton(9) : empty ? emptyState('No calls in this window', 'Widen the time range, or send a request.') : param('view') === 'table' ? table(data) : graph(data);
    render(empty && untouched() && !query().size ? welcome() : html`<div class="head"><h1>Service map</h1>${rangePicker('15m')}</div>
      <section class="panel"><header><h2>Calls</h2><span class="muted">width: calls · red: share of errors</span>
        <button class="ghost push" type="button" aria-pressed=${param('view') === 'table'} @click=${() => setQuery({ view: param('view') ? null : 'table' })}>${icon('table')}Show as table</button></header>${body}</section>`, root);
  }

  function graph({ nodes, edges }) {
    const { at, width, height } = layout(nodes, edges);
    const most = Math.max(1, ...edges.map((edge) => edge.count));
    const near = new Set(edges.flatMap((edge) => (edge.from === focus || edge.to === focus ? [edge.from, edge.to] : [])));
    const look = (id) => { focus = id; draw(); };
    return html`<div class="scroll-map"><svg class="graph ${focus ? 'focused' : ''}" width=${width} height=${height} role="group" aria-label="Service map">
      ${edges.filter((edge) => at.has(edge.from) && at.has(edge.to)).map((edge) => line(edge, at, most, edge.from === focus || edge.to === focus))}
      ${nodes.map((node) => box(node, at.get(node.id), look, node.id === focus || near.has(node.id)))}</svg></div>`;
  }

  return { update };
}

const open = (node) => href('/traces', { service: node.type === 'service' ? node.service : '', q: node.type === 'service' ? '' : node.name, last: param('last', '15m') });

function line(edge, at, most, on) {
  const [a, b] = [at.get(edge.from), at.get(edge.to)];
  const [x0, y0, x1, y1] = [a.x + BOX, a.y + TALL / 2, b.x, b.y + TALL / 2];
  const back = x1 <= x0;
  const bend = (x1 - x0) / 2;
  const self = edge.from === edge.to;
  // A call back to an earlier layer goes around below the boxes instead of through them.
  const low = Math.max(y0, y1) + TALL;
  const path = self ? `M${x0 - 70} ${a.y}c0 -34 50 -34 50 0` : back ? `M${x0 - BOX / 2} ${y0 + TALL / 2}C${x0 - BOX / 2} ${low} ${x1 + BOX / 2} ${low} ${x1 + BOX / 2} ${y1 + TALL / 2}`
    : `M${x0} ${y0}C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1} ${y1}`;
  const width = 1.25 + 5 * Math.sqrt(edge.count / most);
  const share = edge.count ? edge.errors / edge.count : 0;
  return svg`<g class="edge ${on ? 'on' : ''}"><title>${edge.from} → ${edge.to}: ${integer(edge.count)} calls, ${percent(share)} errors, p95 ${duration(edge.p95_ns)}</title>
    <path d=${path} stroke-width=${width}></path>${share ? svg`<path class="error" d=${path} stroke-width=${width} pathLength="100" stroke-dasharray="${Math.max(3, share * 100)} 100"></path>` : nothing}
    <text x=${self ? x0 - 84 : (x0 + x1) / 2} y=${self ? a.y - 10 : back ? low - 16 : (y0 + y1) / 2 - 6}>${integer(edge.count)}</text></g>`;
}

function box(node, { x, y }, look, on) {
  const go = (event) => { event.preventDefault(); navigate(open(node)); };
  const short = node.name.length > 22 ? `${node.name.slice(0, 20)}…` : node.name;
  return svg`<a class="node c${slot(node.service)} ${on ? 'on' : ''}" href=${open(node)} data-row transform="translate(${x} ${y})" @click=${go} @pointerenter=${() => look(node.id)} @pointerleave=${() => look('')}
    @focus=${() => look(node.id)} @blur=${() => look('')} aria-label="${node.name}, ${node.type}: ${integer(node.count)} calls, ${integer(node.errors)} errors, p95 ${duration(node.p95_ns)}">
    <title>${node.name}</title><rect class="box" width=${BOX} height=${TALL} rx="10"></rect><rect class="tint" width="4" height=${TALL - 20} x="8" y="10" rx="2"></rect>
    <text class="title" x="22" y="26">${short}</text><text class="facts type" x=${BOX - 12} y="26">${node.type === 'service' ? '' : node.type}</text>
    <text class="facts" x="22" y="46">${plural(node.count, 'call')} · p95 ${duration(node.p95_ns)}${node.errors ? svg`<tspan class="bad" dx="6">${percent(node.errors / Math.max(1, node.count))} errors</tspan>` : nothing}</text></a>`;
}

/**
 * Layers by the longest path from the callers, then ordered by the mean of their callers. Edges are taken heaviest
 * first and left out where they would close a circle, so that the main flow runs from left to right.
 */
function layout(nodes, edges) {
  const out = new Map(nodes.map((node) => [node.id, []]));
  const into = new Map(nodes.map((node) => [node.id, []]));
  const reaches = (from, to, seen = new Set()) => from === to || (out.get(from) ?? []).some((next) => !seen.has(next) && seen.add(next) && reaches(next, to, seen));
  for (const { from, to } of [...edges].sort((a, b) => b.count - a.count)) {
    if (!out.has(from) || !out.has(to) || reaches(to, from)) continue;
    out.get(from)?.push(to);
    into.get(to)?.push(from);
  }
  const layer = new Map();
  const depth = (id) => {
    if (!layer.has(id)) layer.set(id, Math.max(-1, ...(into.get(id) ?? []).map(depth)) + 1);
    return layer.get(id);
  };
  for (const { id } of nodes) depth(id);
  const order = [...nodes].sort((a, b) => b.count - a.count);
  const layers = [];
  for (const { id } of order) (layers[layer.get(id)] ??= []).push(id);
  const at = new Map();
  const tallest = Math.max(...layers.map((ids) => ids.length)) * (TALL + GAP);
  layers.forEach((ids, column) => {
    const mean = (id) => { const ys = (into.get(id) ?? []).flatMap((from) => (at.has(from) ? [at.get(from).y] : [])); return ys.length ? ys.reduce((a, b) => a + b) / ys.length : 0; };
    const means = new Map(ids.map((id) => [id, mean(id)]));
    ids.sort((a, b) => means.get(a) - means.get(b));
    const top = (tallest - ids.length * (TALL + GAP)) / 2;
    ids.forEach((id, row) => at.set(id, { x: 20 + column * (BOX + ACROSS), y: 32 + top + row * (TALL + GAP) }));
  });
  return { at, width: layers.length * (BOX + ACROSS) - ACROSS + 40, height: tallest + 32 + (edges.some(({ from, to }) => from !== to && at.get(from)?.x >= at.get(to)?.x) ? 40 : 0) };
}

const table = ({ nodes, edges }) => {
  const known = new Map(nodes.map((node) => [node.id, node]));
  const tag = (id) => html`<span class="service">${dot(known.get(id)?.service ?? id)}<span class="clip">${known.get(id)?.name ?? id}</span></span>`;
  const facts = [
    { id: 'count', label: 'Calls', num: true, cell: (row) => integer(row.count) },
    { id: 'errors', label: 'Errors', num: true, cell: (row) => html`<span class=${row.errors ? 'error-text' : 'muted'}>${percent(row.errors / Math.max(1, row.count))}</span>` },
    { id: 'p95', label: 'p95', num: true, cell: (row) => duration(row.p95_ns) },
  ];
  return html`${dataTable({ caption: 'Services', rows: nodes, columns: [{ id: 'name', label: 'Service', cell: (row) => html`<a data-row class="service" href=${open(row)}>${dot(row.service)}<span class="clip">${row.name}</span></a>` }, { id: 'type', label: 'Type', cell: (row) => row.type }, ...facts] })}
    ${dataTable({ caption: 'Calls', rows: edges, columns: [{ id: 'from', label: 'From', cell: (row) => tag(row.from) }, { id: 'to', label: 'To', cell: (row) => tag(row.to) }, ...facts] })}`;
};
