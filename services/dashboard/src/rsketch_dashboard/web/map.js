// @ts-check
/** Service map: who calls whom, in a small layered layout from left to right, with a table of the same. */
import {
  dataTable, dot, duration, emptyState, href, html, icon, integer, navigate, nothing, param, percent, query, rangePicker, render, serviceTag,
  setQuery, shell, skeleton, slot, svg, waiting, windowParams,
} from './lib.js';

export const title = 'Map';

const [BOX, TALL, GAP, ACROSS] = [208, 62, 26, 108];
const SHAPES = { database: 'M4 6c0-3 16-3 16 0v12c0 3-16 3-16 0zM4 6c0 3 16 3 16 0', queue: 'M4 7h16v10H4zM9 7v10M14 7v10', external: 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM3 12h18M12 3c-5 5-5 13 0 18 5-5 5-13 0-18' };

/** @param {HTMLElement} root @param {import('./lib.js').Context} context @returns {import('./lib.js').View} */
export default function map(root, { get }) {
  /** @type {any} */ let data;
  let focus = '';

  async function update(reason) {
    if (reason === 'mount') draw();
    data = await get('/api/map', windowParams('15m'));
    draw();
  }

  function draw() {
    const empty = data?.nodes.length === 0;
    const body = !data ? skeleton(9) : empty ? emptyState('No calls in this window', 'Widen the time range, or send a request.') : param('view') === 'table' ? table(data) : graph(data);
    render(empty && shell.status?.spans === 0 && !query().size ? html`<h1 class="sr">Map</h1>${waiting()}` : html`<div class="head"><h1>Service map</h1>${rangePicker('15m')}</div>
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

const open = (node) => href('/traces', { service: node.type === 'service' ? node.name : '', q: node.type === 'service' ? '' : node.name, last: param('last', '15m') });

function line(edge, at, most, on) {
  const [a, b] = [at.get(edge.from), at.get(edge.to)];
  const [x0, y0, x1, y1] = [a.x + BOX, a.y + TALL / 2, b.x, b.y + TALL / 2];
  // A call back to an earlier layer goes around below its boxes instead of through them.
  const bend = x1 > x0 ? Math.max(40, (x1 - x0) / 2) : 70;
  const drop = x1 > x0 ? 0 : TALL;
  const path = `M${x0} ${y0}C${x0 + bend} ${y0 + drop} ${x1 - bend} ${y1 + drop} ${x1} ${y1}`;
  const width = 1.25 + 5 * Math.sqrt(edge.count / most);
  const share = edge.count ? edge.errors / edge.count : 0;
  return svg`<g class="edge ${on ? 'on' : ''}"><title>${edge.from} → ${edge.to}: ${integer(edge.count)} calls, ${percent(share)} errors, p95 ${duration(edge.p95_ns)}</title>
    <path d=${path} stroke-width=${width}></path>${share ? svg`<path class="error" d=${path} stroke-width=${width} pathLength="100" stroke-dasharray="${Math.max(3, share * 100)} 100"></path>` : nothing}
    <text x=${(x0 + x1) / 2} y=${(y0 + y1) / 2 + drop * 0.75 - 6}>${integer(edge.count)}</text></g>`;
}

function box(node, { x, y }, look, on) {
  const go = (event) => { event.preventDefault(); navigate(open(node)); };
  const short = node.name.length > 24 ? `${node.name.slice(0, 23)}…` : node.name;
  return svg`<a class="node c${slot(node.name)} ${on ? 'on' : ''}" href=${open(node)} data-row transform="translate(${x} ${y})" @click=${go} @pointerenter=${() => look(node.id)} @pointerleave=${() => look('')}
    @focus=${() => look(node.id)} @blur=${() => look('')} aria-label="${node.name}, ${node.type}: ${integer(node.count)} calls, ${integer(node.errors)} errors, p95 ${duration(node.p95_ns)}">
    <title>${node.name}</title><rect class="box" width=${BOX} height=${TALL} rx="10"></rect><rect class="tint" width="4" height=${TALL - 20} x="8" y="10" rx="2"></rect>
    <text class="title" x="22" y="26">${short}</text>${SHAPES[node.type] ? svg`<path class="shape" transform="translate(${BOX - 28} 8) scale(0.8)" d=${SHAPES[node.type]}></path>` : nothing}
    <text class="facts" x="22" y="46">${integer(node.count)} · ${duration(node.p95_ns)}${node.errors ? svg`<tspan class="bad" dx="6">${percent(node.errors / Math.max(1, node.count))} errors</tspan>` : nothing}</text></a>`;
}

/** Layers by longest path from the callers (cycles cut where met again), then ordered by the mean of their callers. */
function layout(nodes, edges) {
  const out = new Map(nodes.map((node) => [node.id, /** @type {string[]} */ ([])]));
  const into = new Map(nodes.map((node) => [node.id, /** @type {string[]} */ ([])]));
  for (const { from, to } of edges) if (from !== to && out.has(from) && out.has(to)) { out.get(from)?.push(to); into.get(to)?.push(from); }
  const layer = new Map();
  const place = (id, depth, path) => {
    if (path.has(id) || (layer.get(id) ?? -1) >= depth) return;
    layer.set(id, depth);
    path.add(id);
    for (const next of out.get(id) ?? []) place(next, depth + 1, path);
    path.delete(id);
  };
  const order = [...nodes].sort((a, b) => (into.get(a.id)?.length ?? 0) - (into.get(b.id)?.length ?? 0) || b.count - a.count);
  for (const node of order) if (!into.get(node.id)?.length || !layer.has(node.id)) place(node.id, 0, new Set());
  const layers = /** @type {string[][]} */ ([]);
  for (const { id } of order) (layers[layer.get(id)] ??= []).push(id);
  const at = new Map();
  const tallest = Math.max(...layers.map((ids) => ids.length)) * (TALL + GAP);
  layers.forEach((ids, column) => {
    const mean = (id) => { const ys = (into.get(id) ?? []).flatMap((from) => (at.has(from) ? [at.get(from).y] : [])); return ys.length ? ys.reduce((a, b) => a + b) / ys.length : 0; };
    const means = new Map(ids.map((id) => [id, mean(id)]));
    ids.sort((a, b) => means.get(a) - means.get(b));
    const top = (tallest - ids.length * (TALL + GAP)) / 2;
    ids.forEach((id, row) => at.set(id, { x: 20 + column * (BOX + ACROSS), y: 16 + top + row * (TALL + GAP) }));
  });
  return { at, width: layers.length * (BOX + ACROSS) - ACROSS + 40, height: tallest + 40 };
}

const table = ({ nodes, edges }) => {
  const names = new Map(nodes.map((node) => [node.id, node.name]));
  const facts = [
    { id: 'count', label: 'Calls', num: true, cell: (row) => integer(row.count) },
    { id: 'errors', label: 'Errors', num: true, cell: (row) => html`<span class=${row.errors ? 'error-text' : 'muted'}>${percent(row.errors / Math.max(1, row.count))}</span>` },
    { id: 'p95', label: 'p95', num: true, cell: (row) => duration(row.p95_ns) },
  ];
  return html`${dataTable({ caption: 'Services', rows: nodes, columns: [{ id: 'name', label: 'Service', cell: (row) => html`<a data-row class="service" href=${open(row)}>${dot(row.name)}<span class="clip">${row.name}</span></a>` }, { id: 'type', label: 'Type', cell: (row) => row.type }, ...facts] })}
    ${dataTable({ caption: 'Calls', rows: edges, columns: [{ id: 'from', label: 'From', cell: (row) => serviceTag(names.get(row.from) ?? row.from) }, { id: 'to', label: 'To', cell: (row) => serviceTag(names.get(row.to) ?? row.to) }, ...facts] })}`;
};
