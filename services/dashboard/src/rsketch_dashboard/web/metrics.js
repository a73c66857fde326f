/** Metrics: a list by prefix, and one of them over time; a histogram as a heatmap whose dots open their traces. */
import './charts.js';
import {
  badge, bytes, choice, command, copyButton, duration, emptyState, href, html, icon, integer, lead, navigate, nothing, number, palette, param, query,
  rangePicker, rate, render, serviceTag, setQuery, skeleton, text, time, untouched, welcome, windowParams,
} from './lib.js';

const NS = { s: 1e9, ms: 1e6, us: 1e3, ns: 1 };

export default function metrics(root, { get }) {
  let list = [];
  let data;
  let loaded = false;

  async function update() {
    draw();
    list = (await get('/api/metrics')).metrics;
    loaded = true;
    const name = chosen();
    draw();
    // One that a link names may not have arrived yet.
    if (list.some((each) => each.name === name)) data = await get('/api/metric', { name, service: param('service'), group: param('group'), ...windowParams('15m') });
    draw();
  }

  const chosen = () => param('name') || (list.find(({ type }) => type.endsWith('histogram')) ?? list[0])?.name;

  const draw = () => render(loaded && !list.length ? none() : html`<div class="head"><h1>Metrics</h1>${rangePicker('15m')}</div>
    <div class="split ${param('name') ? 'chosen' : ''}">${names(list, chosen())}<div class="metric">
      ${data && data.name === chosen() ? metric(data, list.find(({ name }) => name === data.name)?.services ?? []) : html`<section class="panel">${skeleton(14)}</section>`}</div></div>`, root);

  return { update };
}

const none = () => (untouched() ? welcome() : html`<h1 class="sr">Metrics</h1>${emptyState('No metrics yet', 'An SDK sends metrics once a minute. To see them sooner, start the program with', command('export OTEL_METRIC_EXPORT_INTERVAL=5000'))}`);

const kind = ({ type, monotonic }) => (type === 'sum' ? (monotonic ? 'counter' : 'up-down counter') : type.replace('_', ' '));
/** UCUM has `{request}` for things that are counted. */
const word = (unit) => (unit === '1' ? '' : unit.replace(/[{}]/g, ''));
/** What `http.server.request.duration` is listed under: `http.server`; of others the first word. */
const prefix = (name) => name.match(/^((http|rpc|db|messaging)\.)?[^.]+(?=\.)/)?.[0] ?? '';

function names(list, chosen) {
  const found = list.filter(({ name }) => name.toLowerCase().includes(param('q').toLowerCase()));
  const keep = Object.fromEntries(query());
  const item = (key) => (each) => html`<li><a data-row href=${href('/metrics', { ...keep, name: each.name, service: '', group: '', hide: '' })} aria-current=${each.name === chosen ? 'true' : nothing} title=${each.name}>
    <span class="clip">${each.name.slice(key && key.length + 1)}</span><small class="muted">${[kind(each), word(each.unit), `${integer(each.series)} series`].filter(Boolean).join(' · ')}</small></a></li>`;
  return html`<nav class="panel names" aria-label="Metrics"><div class="search">${icon('search')}<input data-search type="search" aria-label="Find a metric" placeholder="Find a metric" .value=${param('q')}
      @input=${(event) => setQuery({ q: event.target.value }, { push: false })}></div>
    ${list.length ? nothing : skeleton(12)}${Object.entries(Object.groupBy(found, ({ name }) => prefix(name))).sort().map(([key, each]) => html`<h2>${key || 'other'}</h2><ul>${each.map(item(key))}</ul>`)}</nav>`;
}

function metric(asked, services) {
  const data = since(asked);
  const { steps: x, heatmap, quantiles, exemplars, unit, promql } = data;
  const format = formatOf(unit);
  const lines = colored(data.series);
  const own = heatmap ? rate : data.monotonic ? perSecondOf(unit) : format;
  const chart = (spec, below) => html`<section class="panel"><div class="body"><rs-chart .spec=${{ kind: 'lines', height: 190, x, format, ...spec }}></rs-chart>${below}</div></section>`;
  const ask = (key) => (value) => setQuery({ [key]: value, hide: null });
  return html`<header><a class="back" href=${href('/metrics', { last: param('last') })}>${icon('right')}All metrics</a><h2 class="mono">${data.name}</h2>
      <div class="facts">${badge(kind(data), 'accent')}${word(unit) ? badge(word(unit)) : nothing}${services.map(serviceTag)}</div><p class="muted">${data.description}</p></header>
    <div class="toolbar">${heatmap ? latest(data, format) : nothing}${choice('Group by', [['', 'every series'], ...data.attributes.map(({ key, values }) => [key, `${key} (${values})`])], param('group'), ask('group'))}
      ${services.length > 1 ? choice('Service', [['', 'all'], ...services.map((each) => [each, each])], param('service'), ask('service')) : nothing}</div>
    ${heatmap ? chart(distribution(heatmap, exemplars)) : nothing}
    <div class="columns">${heatmap ? chart({ title: 'Quantiles', series: Object.entries(quantiles).map(([label, values], i) => ({ label, values, color: `c${i * 3}` })) }) : nothing}
      ${chart({ title: own === format ? 'Value' : 'Rate', format: own, series: lines.filter((line) => !line.hidden) }, html`${lines.length > 1 ? html`<div class="keys" role="group" aria-label="Series">${lines.map((line) => legend(line, own))}</div>` : nothing}
        ${data.truncated ? html`<p class="muted">These are the biggest series; group by an attribute to see all.</p>` : nothing}`)}</div>
    ${exemplars.length ? html`<section class="panel"><header><h2>Highest exemplars</h2></header><ol class="list">${exemplars.toSorted((a, b) => b.value - a.value).slice(0, 6).map((each) => html`<li><a data-row href=${to(each)}>
      <b>${format(each.value)}</b><span class="clip mono muted">${each.trace_id}</span><span class="mono muted">${time(each.time_us)}</span></a></li>`)}</ol></section>` : nothing}
    <section class="panel"><header><h2>The same in PromQL</h2></header><div class="body"><div class="command"><code tabindex="0">${promql}</code>${copyButton(promql, 'Copy PromQL')}</div></div></section>`;
}

function since(data) {
  const { steps, series, heatmap } = data;
  const from = lead(steps, (i) => series.some(({ values }) => values[i] != null) || heatmap?.cells[i].some(Boolean));
  const cut = (values) => values.slice(from);
  return {
    ...data, steps: cut(steps), series: series.map((each) => ({ ...each, values: cut(each.values) })),
    quantiles: Object.fromEntries(Object.entries(data.quantiles ?? {}).map(([key, values]) => [key, cut(values)])), heatmap: heatmap && { ...heatmap, cells: cut(heatmap.cells) },
  };
}

const last = (values) => values.findLast((value) => value != null);

const latest = ({ quantiles, series }, format) => html`<dl class="stats">${[...Object.entries(quantiles).map(([key, values]) => [key, format(last(values))]), ['rate', rate(series.reduce((sum, { values }) => sum + (last(values) ?? 0), 0))]]
  .map(([key, value]) => html`<div><dt>${key}</dt><dd>${value}</dd></div>`)}</dl>`;

const to = ({ trace_id, span_id }) => href(`/t/${encodeURIComponent(trace_id)}`, { span: span_id });

/** A heatmap of the buckets in use and one empty on either side: most bounds are never reached. */
function distribution({ bounds, cells }, exemplars) {
  const used = [...bounds, 0].map((_, i) => cells.some((column) => column[i]));
  const low = Math.max(0, used.indexOf(true) - 1);
  const high = used.lastIndexOf(true) + 1 || bounds.length;
  return {
    kind: 'heatmap', title: 'Distribution', height: 260, bounds: bounds.slice(low, high), cells: cells.map((column) => column.slice(low, high + 1)),
    note: `the darker the more${exemplars.length ? ' · a dot opens its trace' : ''}`,
    points: exemplars.map((each) => ({ x: each.time_us, y: each.value, color: '--text', label: each.trace_id, to: to(each) })),
    onPoint: (point) => navigate(point.to),
  };
}

const legend = ({ label, color, hidden, values }, format) => html`<button type="button" aria-pressed=${!hidden} title=${label} @click=${() => toggle(label)}>
  <i class="dot ${color}"></i><span class="clip">${label}</span><b>${format(last(values))}</b></button>`;

function toggle(label) {
  const hidden = new Set(query().getAll('hide'));
  if (!hidden.delete(label)) hidden.add(label);
  setQuery({ hide: [...hidden] }, { push: false });
}

/** Name each series by what sets it apart and colour it by that name, so that the colour outlives a reload. */
function colored(series) {
  const differs = (of) => new Set(series.map(of)).size > 1;
  const label = ({ attributes, service }) => [...attributes.filter(([key]) => differs((each) => text(Object.fromEntries(each.attributes)[key] ?? ''))).map(([key, value]) => `${param('group') ? '' : `${key.split('.').at(-1)}=`}${text(value)}`),
    ...(differs((each) => each.service) ? [service] : [])].join(' · ') || service || 'all';
  const slot = palette();
  return series.map((each) => ({ label: label(each), values: each.values })).sort((a, b) => (a.label < b.label ? -1 : 1))
    .map((line) => ({ ...line, color: `c${slot(line.label)}`, hidden: query().getAll('hide').includes(line.label) }));
}

const formatOf = (unit) => (NS[unit] ? (value) => (value ? duration(value * NS[unit]) : number(value)) : unit === 'By' ? (value) => (value >= 1e3 ? bytes(value) : `${number(value)} B`) : number);
/** Seconds a second stay seconds: 0.5 s/s is half a core, not 500 ms/s. */
const perSecondOf = (unit) => (NS[unit] ? (value) => `${number(value)} ${unit}/s` : unit === 'By' ? (value) => `${formatOf(unit)(value)}/s` : rate);
