/**
 * One trace: a waterfall with its logs inline, a mini-map to zoom, find, and a span's details.
 *
 * Layout is arithmetic over a flat list of rows; only the visible ones are in the document.
 */
import {
  ApiError, api, badge, copy, copyButton, dateTime, dot, duration, emptyState, href, html, icon, integer, nothing, pairs, param, percent, plural,
  render, say, serviceTag, setQuery, skeleton, slot, svg, tabs, text, time,
} from './lib.js';

const ROW = 28;
const INDENT = 13;
/** Deeper levels are drawn at this one, so that names stay on the screen. */
const DEEPEST = 14;
/** So many equal siblings in a row become one row. */
const FOLD = 5;
const TICKS = [0, 0.25, 0.5, 0.75];

const SHORT = 16;

export default function trace(root, { params: [traceId], get }) {
  let data;
  let missing = false;
  let model = createModel({ spans: [], logs: [], start_us: 0 });
  let rows = [];
  const state = { collapsed: new Set(), opened: new Set(), logs: true, zoom: null, find: '', hits: [], hit: -1, cursor: '', tab: 'attributes' };
  let frame = 0;

  async function update(reason) {
    if (reason === 'url' && data) draw();
    // A finished trace no longer changes.
    if (data && (reason === 'url' || (reason === 'live' && Date.now() * 1e3 > data.start_us + data.duration_ns / 1e3 + 30e6))) return false;
    if (reason === 'mount') draw();
    try {
      data = await get(`/api/trace/${encodeURIComponent(traceId)}`);
      missing = false;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      missing = true;
    }
    if (data) {
      model = createModel(data);
      document.title = `${model.roots[0]?.span.name ?? 'Trace'} · rsketch`;
      search(state.find);
      const chosen = model.byId.get(param('span'));
      if (reason !== 'live' && chosen) reveal(chosen);
    }
    draw();
    if (reason !== 'live') showCursor();
  }

  const chosen = () => model.byId.get(param('span'));
  const choose = (id) => setQuery({ span: id }, { push: false });

  function draw() {
    rows = rowsOf(model, state);
    render(data ? page() : missing ? absent() : html`<h1 class="sr">Trace</h1>${skeleton(12)}`, root);
    if (!data) return;
    drawRows();
  }

  const absent = () => html`<h1 class="sr">Trace ${traceId}</h1>${emptyState('This trace has not arrived',
    html`<p>It may be on its way, for spans are sent in batches: then it is shown as soon as it comes. Or it was sampled out, or is older than what is kept.</p>
    <p><a class="link" href=${href('/logs', { trace: traceId })}>Logs of this trace</a> · <a class="link" href="/traces">All traces</a></p>`)}`;

  function page() {
    const top = model.roots[0]?.span;
    const errors = data.spans.filter((span) => span.status === 'ERROR').length;
    const orphans = data.spans.filter((span) => span.orphan).length;
    const notes = [
      orphans && `${plural(orphans, 'span')} without the parent: it has not arrived, or is not exported here.`,
      data.skewed && `${plural(data.skewed, 'span')} outside the parent's time: asynchronous work, or clocks that differ.`,
      data.truncated && 'Only the first 20,000 spans are shown.',
    ].filter(Boolean);
    return html`<header class="summary"><h1 title=${top?.name ?? ''}>${top?.name ?? 'Trace'}</h1>
        <div class="acts">${copyButton(traceId, 'Copy trace id')}
          <button class="ghost" type="button" @click=${copyExport}>${icon('copy')}OTLP</button>
          <a class="button ghost" href="/api/trace/${encodeURIComponent(traceId)}/export" download="trace-${traceId}.json">${icon('load')}Download</a>
          ${top ? html`<a class="button ghost" href=${href('/compare', { service: top.service, operation: top.name })}>Compare</a>` : nothing}</div>
        <div class="facts"><b>${duration(model.total)}</b><span>${dateTime(data.start_us)}</span><span>${plural(data.spans.length, 'span')}</span>
          ${errors ? html`<span class="error-text">${plural(errors, 'error')}</span>` : nothing}${data.logs.length ? html`<span>${plural(data.logs.length, 'log')}</span>` : nothing}
          ${data.services.map(serviceTag)}</div></header>
      ${notes.length ? html`<p class="note">${notes.join(' ')}</p>` : nothing}
      <div class="toolbar"><div class="search">${icon('search')}<input data-search type="search" aria-label="Find in trace" placeholder="Find" .value=${state.find}
          @input=${(event) => { state.hit = -1; search(event.target.value); step(1); draw(); }} @keydown=${findKey}></div>
        <span class="hits" role="status">${state.find ? `${state.hits.length ? state.hit + 1 : 0} of ${integer(state.hits.length)}` : ''}</span>
        ${data.logs.length ? html`<button type="button" aria-pressed=${state.logs} @click=${() => { state.logs = !state.logs; draw(); }}>Logs</button>` : nothing}
        ${state.collapsed.size || state.opened.size ? html`<button class="ghost" type="button" @click=${() => { state.collapsed.clear(); state.opened.clear(); draw(); }}>Reset folds</button>` : nothing}
        ${state.zoom ? html`<button class="ghost" type="button" @click=${() => zoom(null)}>${icon('close')}Zoom ${duration(state.zoom[1] - state.zoom[0])}</button>` : nothing}
        <span class="key push muted" aria-hidden="true"><i class="self"></i>own time<i class="whole"></i>in children<i class="critical"></i>critical path</span></div>
      <div class="stage ${short() ? 'short' : ''}"><div class="fall" role="treegrid" tabindex="0" aria-label="Spans" aria-rowcount=${rows.length + 1} aria-colcount="2" aria-activedescendant=${state.cursor ? `r-${state.cursor}` : nothing} @scroll=${schedule} @focus=${() => { if (!state.cursor) moveTo(0); }}></div>
        ${chosen() ? detail(chosen()) : short() && top ? shares(top) : nothing}</div>`;
  }

  const short = () => model.nodes.length + data.logs.length <= SHORT;

  function shares(top) {
    const own = Object.groupBy(data.spans, ({ service, name, kind }) => `${service} ${kind} ${name}`);
    const sums = Object.values(own).map((spans) => ({ spans, of: spans[0], ns: spans.reduce((sum, { self_ns }) => sum + self_ns, 0) })).sort((a, b) => b.ns - a.ns);
    const all = sums.reduce((sum, { ns }) => sum + ns, 0) || 1;
    return html`<div class="columns shares-of"><section><h2>Own time</h2><ol class="list">${sums.map(({ spans, of, ns }) => html`<li>${dot(of.service)}<span class="clip">${of.name} <small class="muted">${of.kind.toLowerCase()} · ${of.service}${spans.length > 1 ? ` · ${spans.length}×` : ''}</small></span>
        <svg class="meter c${slot(of.service)}" aria-hidden="true"><rect width="${(ns / all) * 100}%" height="8" rx="2"></rect></svg><span class="num">${duration(ns)}</span><span class="num muted">${percent(ns / all)}</span></li>`)}</ol></section>
      <section><h2>${top.name}</h2>${pairs(top.attributes, byThis)}</section></div>`;
  }

  const fall = () => root.querySelector('.fall');
  const range = () => state.zoom ?? [0, model.total];

  function schedule() {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(drawRows);
  }

  function drawRows() {
    const host = fall();
    if (!host) return;
    const first = Math.max(0, Math.floor(host.scrollTop / ROW) - 8);
    const last = Math.min(rows.length, first + Math.ceil((host.clientHeight || innerHeight) / ROW) + 16);
    const [from, to] = range();
    const look = { from, to, cursor: state.cursor, chosen: param('span'), hits: state.find ? new Set(state.hits) : null, collapsed: state.collapsed, toggle, pick };
    render(html`<div class="frow top" role="row" aria-rowindex="1"><div role="columnheader">Span</div><div role="columnheader" class="times" title="Drag to zoom, double-click to reset" @pointerdown=${drag} @dblclick=${() => zoom(null)}><span class="sr">Timeline</span><svg class="lane" aria-hidden="true">${brush(from, to)}${TICKS.map((tick) => svg`<line class="grid" x1="${tick * 100}%" x2="${tick * 100}%" y2="30"></line><text x="${tick * 100}%" dx="6" y="19">${duration(from + tick * (to - from))}</text>`)}</svg></div></div>
      <div class="rest" role="rowgroup"><div class="window" role="presentation">${rows.slice(first, last).map((row, i) => rowTemplate(row, first + i, look))}</div></div>`, host);
    const rest = host.querySelector('.rest');
    rest.style.height = `${rows.length * ROW + (short() ? 8 : 40)}px`;
    rest.firstElementChild.style.transform = `translateY(${first * ROW}px)`;
  }

  const brush = (from, to) => {
    const [a, b] = (state.brush ?? []).map((at) => ((at - from) / (to - from)) * 100);
    return b > a ? svg`<rect class="brushed" x="${a}%" width="${b - a}%" height="30"></rect>` : nothing;
  };

  function zoom(window) {
    state.zoom = window && window[1] - window[0] > model.total / 1e6 ? window : null;
    draw();
  }

  function drag(event) {
    const area = event.currentTarget;
    const box = area.querySelector('svg').getBoundingClientRect();
    const [from, to] = range();
    const at = (e) => from + Math.min(1, Math.max(0, (e.clientX - box.left) / box.width)) * (to - from);
    area.setPointerCapture(event.pointerId);
    const move = (e) => {
      state.brush = [at(event), at(e)].sort((a, b) => a - b);
      drawRows();
    };
    area.onpointermove = move;
    area.onpointerup = (e) => {
      area.onpointermove = area.onpointerup = state.brush = null;
      if (Math.abs(e.clientX - event.clientX) > 3) zoom([at(event), at(e)].sort((a, b) => a - b));
    };
  }

  async function copyExport() {
    try {
      await copy(JSON.stringify(await api(`/api/trace/${encodeURIComponent(traceId)}/export`), null, 2), 'Copied as OTLP-JSON');
    } catch (error) {
      say(error.message);
    }
  }

  function toggle(row, open) {
    if (row.kind === 'log') return;
    const [set, on] = row.kind === 'fold' ? [state.opened, open ?? true] : [state.collapsed, !(open ?? state.collapsed.has(row.id))];
    if (on) set.add(row.id);
    else set.delete(row.id);
    draw();
  }

  function pick(row) {
    state.cursor = row.id;
    if (row.kind === 'fold') return toggle(row);
    if (row.kind === 'log') state.tab = 'logs';
    const node = row.kind === 'log' ? row.owner : row.node;
    if (node) choose(node.id);
    else draw();
  }

  function moveTo(index) {
    const row = rows[Math.min(rows.length - 1, Math.max(0, index))];
    if (!row) return;
    state.cursor = row.id;
    if (chosen() && row.kind === 'span') choose(row.id);
    else draw();
    showCursor();
    fall().focus({ preventScroll: true });
  }

  function showCursor() {
    const host = fall();
    const at = rows.findIndex((row) => row.id === state.cursor);
    if (!host || at < 0) return;
    const [top, head] = [at * ROW, 34];
    if (top < host.scrollTop) host.scrollTop = top;
    else if (top + ROW + head > host.scrollTop + host.clientHeight) host.scrollTop = top + ROW + head - host.clientHeight / 2;
    drawRows();
  }

  /** Make a node's row exist and put the cursor on it. */
  function reveal(node) {
    // A fold is known once the rows around it are made.
    itemsOf(model.roots, model.loose, null, 1, model.base);
    for (let at = node.parent; at; at = at.parent) {
      state.collapsed.delete(at.id);
      at.items ??= itemsOf(at.children, at.logs, at, at.depth + 2, model.base);
    }
    for (let at = node; at; at = at.parent) if (at.fold) state.opened.add(at.fold);
    state.cursor = node.id;
    rows = rowsOf(model, state);
  }

  function search(line) {
    state.find = line;
    const words = line.trim().toLowerCase();
    state.hits = words ? model.nodes.filter((node) => wordsOf(node).includes(words)) : [];
    state.hit = Math.min(state.hit, state.hits.length - 1);
    if (!words) state.hit = -1;
  }

  function step(by) {
    if (!state.hits.length) return;
    state.hit = (state.hit + by + state.hits.length) % state.hits.length;
    reveal(state.hits[state.hit]);
    if (chosen()) choose(state.cursor);
    else draw();
    showCursor();
  }

  function findKey(event) {
    if (event.key === 'Enter') step(event.shiftKey ? -1 : 1);
    if (event.key !== 'Escape') return;
    event.target.value = '';
    search('');
    draw();
    fall().focus();
  }

  function keys(event) {
    // In the details, arrows and the like belong to tabs, text and scrolling.
    if (!data || (event.target.closest('.detail') && event.key.length > 1)) return false;
    const at = rows.findIndex((row) => row.id === state.cursor);
    const row = rows[at];
    const pageful = Math.floor(fall().clientHeight / ROW) - 2;
    const moves = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: pageful, PageUp: -pageful, Home: -at, End: rows.length };
    if (event.key in moves) moveTo(at < 0 ? 0 : at + moves[event.key]);
    else if (event.key === 'n' || event.key === 'N') step(event.key === 'n' ? 1 : -1);
    else if (event.key === 'z' && row?.kind === 'span') zoom([row.node.start, row.node.end]);
    else if (event.key === 'Enter' && row && !event.target.closest('button, a')) pick(row);
    else if (event.key === 'ArrowRight' && row) openOrEnter(row, at);
    else if (event.key === 'ArrowLeft' && row) closeOrLeave(row);
    else return false;
    return true;
  }

  function openOrEnter(row, at) {
    if (row.kind === 'fold' || state.collapsed.has(row.id)) toggle(row, true);
    else if (rows[at + 1]?.level > row.level) moveTo(at + 1);
  }

  function closeOrLeave(row) {
    if (row.kind === 'span' && row.node.size && !state.collapsed.has(row.id)) return toggle(row, false);
    const parent = row.kind === 'log' ? row.owner : (row.kind === 'span' ? row.node : row.nodes[0]).parent;
    if (parent) moveTo(rows.findIndex((each) => each.id === parent.id));
  }

  function escape() {
    if (state.find) search('');
    else if (chosen()) choose(null);
    else if (state.zoom) zoom(null);
    else return false;
    draw();
    fall()?.focus();
    return true;
  }

  function detail(node) {
    const { span } = node;
    const set = (id) => { state.tab = id; draw(); };
    const items = [['attributes', 'Attributes', span.attributes.length], ['events', 'Events', span.events.length], ['logs', 'Logs', node.logs.length], ['resource', 'Resource'], ['links', 'Links', span.links.length]];
    return html`<aside class="detail" aria-label="Span details"><header><h2>${span.name}</h2>${copyButton(span.span_id, 'Copy span id')}
        <button class="ghost icon-only" type="button" aria-label="Close details" @click=${() => choose(null)}>${icon('close')}</button></header>
      <div class="facts">${serviceTag(span.service)}<span>${span.kind.toLowerCase()}</span><b>${duration(span.duration_ns)}</b><span>self ${duration(span.self_ns)}</span><span>at +${duration(node.start)}</span>
        ${span.critical ? badge('critical path', 'accent') : nothing}${span.dropped ? badge(`${integer(span.dropped)} dropped`, 'warn') : nothing}</div>
      ${span.status === 'ERROR' ? html`<div class="fail">${span.status_message || 'Status ERROR, without a message'}</div>` : nothing}
      ${tabs('Span details', items, state.tab, set, 'inside')}
      <div class="inside" id="inside" role="tabpanel" aria-labelledby="inside-tab" tabindex="0">${panels[state.tab](node)}</div></aside>`;
  }

  const none = (what) => html`<p class="muted">${what}</p>`;
  const byThis = (key, value) => html`<a class="button ghost" href=${href('/traces', { attr: `${key}=${text(value)}` })} aria-label="Filter traces by ${key}" title="Filter traces by this">${icon('filter')}</a>`;
  const entry = (head, at, list, body = nothing) => html`<div class="entry"><h3>${head}<span class="muted mono">+${duration(at)}</span></h3>${body}${pairs(list)}</div>`;
  const since = (us) => (us - data.start_us) * 1e3;
  const panels = {
    attributes: ({ span }) => span.attributes.length ? pairs(span.attributes, byThis) : none('No attributes.'),
    events: ({ span }) => span.events.length ? span.events.map((event) => entry(event.name, since(event.time_us), event.attributes)) : none('No events.'),
    logs: (node) => node.logs.length ? node.logs.map((log) => entry(badge(log.severity, tone(log)), since(log.time_us), log.attributes, html`<p>${log.body || log.event_name}</p>`)) : none('No logs of this span.'),
    resource: ({ span }) => html`${pairs(data.resources[span.resource])}<div class="entry"><h3>Instrumentation scope</h3>${pairs([['name', span.scope?.name ?? ''], ['version', span.scope?.version ?? '']])}</div>`,
    links: ({ span }) => span.links.length ? span.links.map((link) => html`<div class="entry"><a class="link mono" href=${href(`/t/${encodeURIComponent(link.trace_id)}`, { span: link.span_id })}>${link.trace_id}</a>${pairs(link.attributes)}</div>`) : none('No links.'),
  };

  const redraw = () => { if (data) draw(); };
  for (const event of ['theme', 'resize']) window.addEventListener(event, redraw);
  const destroy = () => ['theme', 'resize'].forEach((event) => window.removeEventListener(event, redraw));
  return { update, keys, escape, destroy };
}

const tone = (log) => (log.severity_number >= 17 ? 'error' : log.severity_number >= 13 ? 'warn' : '');

function wordsOf(node) {
  node.words ??= [node.span.name, node.span.service, node.span.span_id, node.span.status_message, ...node.span.attributes.flat().map(text)].join('\n').toLowerCase();
  return node.words;
}

/**
 * The tree of a trace: nodes with times in ns from the trace's start; `size` counts descendants, `clean` says that none
 * of them failed. The API's spans come depth first with their depth, so one pass and a stack suffice.
 */
function createModel(data) {
  const spans = data.spans;
  // Epoch nanoseconds exceed a double's 53 bits; differences do not.
  const origin = spans.reduce((low, span) => { const at = BigInt(span.start_ns); return low === null || at < low ? at : low; }, null) ?? BigInt(data.start_us) * 1000n;
  const base = Number(origin / 1000n);
  const nodes = [];
  const byId = new Map();
  const path = [];
  for (const span of spans) {
    const start = Number(BigInt(span.start_ns) - origin);
    path.length = Math.min(path.length, span.depth);
    const parent = path.at(-1) ?? null;
    const node = { id: span.span_id, span, start, end: start + span.duration_ns, depth: path.length, parent, children: [], logs: [], clean: span.status !== 'ERROR', size: 0 };
    parent?.children.push(node);
    path.push(node);
    nodes.push(node);
    byId.set(node.id, node);
  }
  for (let i = nodes.length - 1; i >= 0; i--) {
    const { parent, clean, size } = nodes[i];
    if (!parent) continue;
    parent.clean &&= clean;
    parent.size += size + 1;
  }
  const loose = [];
  for (const log of data.logs) (byId.get(log.span_id)?.logs ?? loose).push(log);
  const roots = nodes.filter((node) => !node.parent);
  const total = nodes.reduce((high, node) => Math.max(high, node.end), 0) || Math.max(1, ...loose.map((log) => (log.time_us - base) * 1e3));
  return { nodes, byId, roots, loose, base, total };
}

/** The items of rows (kind 'span', 'fold' or 'log'): a node's children and logs in time order, with repeats folded. */
function itemsOf(children, logs, owner, level, base) {
  const items = [];
  for (let i = 0; i < children.length;) {
    let next = i + 1;
    const { span, clean } = children[i];
    while (clean && next < children.length && children[next].clean && children[next].span.name === span.name && children[next].span.service === span.service) next++;
    if (next - i >= FOLD) {
      const id = `f-${children[i].id}`;
      const nodes = children.slice(i, next);
      for (const node of nodes) node.fold = id;
      items.push({ kind: 'fold', id, nodes, level });
    } else for (let k = i; k < next; k++) items.push({ kind: 'span', id: children[k].id, node: children[k], level });
    i = next;
  }
  logs.forEach((log, i) => items.push({ kind: 'log', id: `l-${owner?.id ?? ''}-${i}`, log, at: (log.time_us - base) * 1e3, owner, level }));
  const when = (item) => (item.kind === 'span' ? item.node.start : item.kind === 'fold' ? item.nodes[0].start : item.at);
  return logs.length ? items.sort((a, b) => when(a) - when(b)) : items;
}

/** The rows, with an own stack: a trace may be deeper than the engine's. */
function rowsOf(model, { collapsed, opened, logs }) {
  const rows = [];
  const stack = itemsOf(model.roots, model.loose, null, 1, model.base).reverse();
  while (stack.length) {
    const item = stack.pop();
    if (item.kind === 'log' && !logs) continue;
    if (item.kind === 'fold' && opened.has(item.id)) {
      for (const node of [...item.nodes].reverse()) stack.push({ kind: 'span', id: node.id, node, level: item.level });
      continue;
    }
    rows.push(item);
    if (item.kind !== 'span' || collapsed.has(item.id)) continue;
    const { node } = item;
    node.items ??= itemsOf(node.children, node.logs, node, item.level + 1, model.base);
    for (let i = node.items.length - 1; i >= 0; i--) stack.push(node.items[i]);
  }
  return rows;
}

function selfParts(node) {
  if (node.parts) return node.parts;
  const parts = [];
  let at = node.start;
  for (const child of [...node.children].sort((a, b) => a.start - b.start)) {
    if (child.start > at) parts.push([at, Math.min(child.start, node.end)]);
    at = Math.max(at, child.end);
    if (at >= node.end) break;
  }
  if (at < node.end || !node.children.length) parts.push([at, node.end]);
  return (node.parts = parts);
}

function rowTemplate(row, index, look) {
  const node = row.kind === 'span' ? row.node : null;
  const open = row.kind === 'fold' ? false : node?.size || node?.logs.length ? !look.collapsed.has(row.id) : undefined;
  const marks = [row.kind, row.kind === 'log' ? tone(row.log) : '', row.id === look.cursor && 'cursor', row.id === look.chosen && 'chosen', node && look.hits?.has(node) && 'hit'];
  return html`<div class="frow ${marks.filter(Boolean).join(' ')}" role="row" id="r-${row.id}" aria-rowindex=${index + 2} aria-level=${row.level} aria-expanded=${open ?? nothing} aria-selected=${row.id === look.chosen} @click=${() => look.pick(row)}>
    <div class="who" role="gridcell">${indent(row.level)}${twist(row, open, look)}${who(row)}</div>
    <div role="gridcell" aria-label=${describe(row)}>${lane(row, look)}</div></div>`;
}

function indent(level) {
  const width = Math.min(level - 1, DEEPEST) * INDENT;
  let lines = '';
  for (let at = 5; at < width; at += INDENT) lines += `M${at + 0.5} 0V${ROW}`;
  return width ? html`<svg class="indent" width=${width} aria-hidden="true"><path d=${lines}></path></svg>` : nothing;
}

function twist(row, open, look) {
  if (open === undefined) return html`<span class="twist"></span>`;
  const act = (event) => { event.stopPropagation(); look.toggle(row); };
  return html`<button class="twist" type="button" tabindex="-1" aria-label=${open ? 'Collapse' : 'Expand'} @click=${act}>${icon(open ? 'down' : 'right')}</button>`;
}

function who(row) {
  if (row.kind === 'log') return html`<span class="sev">${row.log.severity}</span><span class="clip">${row.log.body || row.log.event_name}</span>`;
  const { span, parent, size } = row.kind === 'fold' ? row.nodes[0] : row.node;
  return html`${dot(span.service)}${row.kind === 'fold' ? badge(`${integer(row.nodes.length)} ×`) : nothing}${span.status === 'ERROR' ? html`<span class="flag" title="Error">${icon('alert')}</span>` : nothing}
    <span class="clip">${span.name}</span>${parent?.span.service === span.service ? nothing : html`<span class="clip muted">${span.service}</span>`}${size > 20 ? badge(integer(size)) : nothing}`;
}

function describe(row) {
  if (row.kind === 'log') return time(row.log.time_us);
  const nodes = row.kind === 'fold' ? row.nodes : [row.node];
  return `${duration(nodes.reduce((sum, node) => sum + node.span.duration_ns, 0))}, starts at ${duration(nodes[0].start)}`;
}

function lane(row, { from, to }) {
  const x = (at) => Math.min(100, Math.max(0, ((at - from) / (to - from)) * 100));
  const grid = TICKS.map((tick) => svg`<line class="grid" x1="${tick * 100}%" x2="${tick * 100}%" y2="28"></line>`);
  if (row.kind === 'log') return html`<svg class="lane" aria-hidden="true">${grid}<circle class="mark-log" cx="${x(row.at)}%" cy="14" r="3.5"></circle></svg>`;
  const nodes = row.kind === 'fold' ? row.nodes : [row.node];
  const { span } = nodes[0];
  const last = nodes.reduce((high, node) => Math.max(high, node.end), 0);
  if (last < from || nodes[0].start > to) return html`<svg class="lane" aria-hidden="true">${grid}</svg>`;
  const [start, end] = [x(nodes[0].start), x(last)];
  const rect = (name, [a, b], y = 8, height = 12) => svg`<rect class=${name} x="${a}%" y=${y} width=${b - a < 0.25 ? '2.5' : `${b - a}%`} height=${height} rx="2"></rect>`;
  const solid = joined(row.kind === 'fold' ? nodes.map((node) => [node.start, node.end]) : selfParts(nodes[0]), x);
  const events = row.kind === 'fold' ? [] : span.events.slice(0, 50);
  const at = (event) => x(row.node.start + (event.time_us - span.start_us) * 1e3);
  return html`<svg class="lane c${slot(span.service)}" aria-hidden="true">${grid}${rect('whole', [start, end])}${solid.map((part) => rect('self', part))}
    ${nodes[0].span.critical ? rect('critical', [start, end], 22, 1.5) : nothing}${span.status === 'ERROR' ? rect('failed', [start, end]) : nothing}
    ${events.map((event) => svg`<circle class="event" cx="${at(event)}%" cy="14" r="3"><title>${event.name}</title></circle>`)}
    <text x="${end}%" dx="7" y="18">${duration(nodes.reduce((sum, node) => sum + node.span.duration_ns, 0))}</text></svg>`;
}

/** Neighbours less than a quarter percent apart are one: a row draws at most a few hundred. */
function joined(parts, x) {
  const out = [];
  for (const part of parts) {
    const [a, b] = part.map(x);
    const last = out.at(-1);
    if (last && a - last[1] < 0.25) last[1] = Math.max(last[1], b);
    else out.push([a, b]);
  }
  return out;
}
