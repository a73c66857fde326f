// @ts-check
/**
 * Charts: `<rs-chart .spec=${…}>` around uPlot, each with a table twin, and inline SVG sparklines.
 *
 * A chart only draws what its spec says; it fetches nothing. Colours are names of CSS custom properties, so that
 * both themes and forced colours apply to the canvas too.
 */
import { html, icon, nothing, number, render, svg, time, timeShort } from './lib.js';

/**
 * @typedef {{label: string, values: (number|null)[], color?: string, fill?: boolean, dash?: boolean}} Series
 * @typedef {{x: number, y: number, color?: string, label?: string, row?: unknown[], error?: boolean}} Point  x in us
 * @typedef {{x0?: number, x1?: number, y0?: number, y1?: number}} Box  x in us
 * @typedef {{kind: 'lines'|'bars'|'scatter'|'heatmap', title: string, note?: unknown, height?: number, x: number[],
 *   series?: Series[], format?: (v: number) => string, log?: boolean, points?: Point[], columns?: string[],
 *   bounds?: number[], cells?: number[][], selection?: Box, range?: [number, number],
 *   onBrush?: (box: Box) => void, onPoint?: (point: Point) => void}} Spec
 *   `bars` are stacked. `scatter` reads points only; its table has *columns* and the points' *row*. `heatmap` takes
 *   one array of cells per x step and upper *bounds*; the last cell is +Inf.
 */

const probe = document.createElement('i');
/** The computed colour of a custom property (canvas knows no `var()` nor `light-dark()`). */
export function cssColor(name) {
  if (!probe.parentNode) document.body.append(probe);
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

/** A sparkline of counts, with the errors' share in the error colour. SVG attributes only: CSP allows no style text. */
export function sparkline(counts, errors = [], width = 120, height = 24) {
  const top = Math.max(1, ...counts);
  const w = width / counts.length;
  const bar = (n, i, name) => n ? svg`<rect class=${name} x=${(i * w).toFixed(2)} width=${Math.max(1, w - 0.8).toFixed(2)} y=${(height - Math.max(1.5, (n / top) * height)).toFixed(1)} height=${Math.max(1.5, (n / top) * height).toFixed(1)}></rect>` : nothing;
  return html`<svg class="spark" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" aria-hidden="true">
    ${counts.map((n, i) => bar(n, i, ''))}${errors.map((n, i) => bar(n, i, 'error'))}</svg>`;
}

const unit = (x) => x / 1e6;
const us = (x) => Math.round(x * 1e6);

class Chart extends HTMLElement {
  /** @type {Spec|undefined} */ #spec;
  /** @type {any} */ #plot;
  #shape = '';
  #table = false;
  #dragging = false;
  #resize = new ResizeObserver(() => this.#fit());
  #theme = () => { this.#shape = ''; this.#draw(); };

  set spec(value) {
    this.#spec = value;
    // A live update must not pull the box from under the pointer.
    if (this.isConnected && !this.#dragging) this.#draw();
  }

  connectedCallback() {
    window.addEventListener('theme', this.#theme);
    this.#draw();
    this.#resize.observe(this);
  }

  disconnectedCallback() {
    window.removeEventListener('theme', this.#theme);
    this.#resize.disconnect();
    this.#plot?.destroy();
    this.#plot = undefined;
    this.#shape = '';
  }

  #draw() {
    const spec = this.#spec;
    if (!spec) return;
    const toggle = () => { this.#table = !this.#table; this.#draw(); };
    render(html`<figure class="chart"><figcaption><b>${spec.title}</b><span class="muted">${spec.note ?? nothing}</span>
      ${(spec.series ?? []).length > 1 ? html`<span class="legend">${spec.series?.map((s) => html`<span><i class="dot ${(s.color ?? '--s0').replace('--s', 'c').replace('--', '')}"></i>${s.label}</span>`)}</span>` : nothing}
      <button class="ghost" type="button" aria-pressed=${this.#table} @click=${toggle}>${icon(this.#table ? 'chart' : 'table')}<span>${this.#table ? 'Show as chart' : 'Show as table'}</span></button></figcaption>
      <div class="plot" role="img" aria-label="${spec.title}; the same as a table: Show as table" ?hidden=${this.#table}></div>
      ${this.#table ? html`<div class="scroll" tabindex="0" role="region" aria-label=${spec.title}>${twin(spec)}</div>` : nothing}</figure>`, this);
    const host = /** @type {HTMLElement} */ (this.querySelector('.plot'));
    host.style.height = `${spec.height ?? 180}px`;
    if (!this.#table) this.#plotInto(host, spec);
  }

  #plotInto(host, spec) {
    const data = dataOf(spec);
    const shape = JSON.stringify([spec.kind, spec.height, spec.log, spec.series?.map((s) => [s.label, s.color])]);
    if (shape !== this.#shape || !this.#plot) {
      this.#plot?.destroy();
      this.#shape = shape;
      const size = { width: host.clientWidth || this.clientWidth || 300, height: spec.height ?? 180 };
      this.#plot = new window.uPlot({ ...size, ...options(() => /** @type {Spec} */ (this.#spec)) }, data, host);
      this.#listen(this.#plot);
    } else this.#plot.setData(data);
    showSelection(this.#plot, spec);
  }

  #listen(plot) {
    const spec = () => /** @type {Spec} */ (this.#spec);
    plot.over.addEventListener('pointerdown', () => { this.#dragging = true; });
    // uPlot settles the selection on mouseup, which follows pointerup.
    window.addEventListener('pointerup', () => setTimeout(() => { this.#dragging = false; }), { passive: true });
    plot.hooks.setSelect = [(u) => {
      const { left, top, width, height } = u.select;
      if (width < 4 && height < 4) return;
      // A drag along one axis leaves the other open.
      const [wide, tall] = [width >= u.over.clientWidth - 1, height >= u.over.clientHeight - 1];
      spec().onBrush?.({
        x0: wide ? undefined : us(u.posToVal(left, 'x')), x1: wide ? undefined : us(u.posToVal(left + width, 'x')),
        y0: tall ? undefined : u.posToVal(top + height, 'y'), y1: tall ? undefined : u.posToVal(top, 'y'),
      });
    }];
    plot.over.addEventListener('click', () => {
      const point = nearest(plot, spec());
      if (point && plot.select.width < 4) spec().onPoint?.(point);
    });
    const tip = document.createElement('div');
    tip.className = 'tip';
    plot.over.append(tip);
    plot.hooks.setCursor = [(u) => hover(u, spec(), tip)];
  }

  #fit() {
    const host = /** @type {HTMLElement?} */ (this.querySelector('.plot'));
    if (!this.#plot || !host?.clientWidth || host.clientWidth === this.#plot.width) return;
    this.#plot.setSize({ width: host.clientWidth, height: this.#spec?.height ?? 180 });
    showSelection(this.#plot, /** @type {Spec} */ (this.#spec));
  }
}
customElements.define('rs-chart', Chart);

/** uPlot's columns; scatter and heatmap draw themselves and only lend uPlot their extent. */
function dataOf(spec) {
  if (spec.kind === 'scatter') {
    const points = [...(spec.points ?? [])].sort((a, b) => a.x - b.x);
    return [points.map((p) => unit(p.x)), points.map((p) => p.y)];
  }
  const x = spec.x.map(unit);
  if (spec.kind === 'heatmap') return [x, x.map(() => null)];
  if (spec.kind === 'lines') return [x, ...(spec.series ?? []).map((s) => s.values)];
  const sums = x.map(() => 0);
  // Stacked from the last series up, and drawn tallest first.
  const stacked = [...(spec.series ?? [])].reverse().map((s) => s.values.map((v, i) => (sums[i] += v ?? 0)));
  return [x, ...stacked.reverse()];
}

/** @param {() => Spec} now the current spec: hooks outlive the one the plot was made for */
function options(now) {
  const spec = now();
  const [line, muted] = [cssColor('--line'), cssColor('--muted')];
  const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: '11px system-ui, sans-serif' };
  const format = (v) => (spec.format ?? number)(v);
  const label = spec.kind === 'heatmap' ? (v) => boundLabel(now(), v) : format;
  const drawn = { scatter: drawScatter, heatmap: drawHeatmap }[/** @type {string} */ (spec.kind)];
  const uPlot = window.uPlot;
  const series = (s) => ({
    stroke: cssColor(s.color ?? '--s0'), width: spec.kind === 'bars' ? 0 : 1.75, dash: s.dash ? [4, 4] : undefined, spanGaps: false, points: { show: false },
    fill: spec.kind === 'bars' || s.fill ? cssColor(`${s.color ?? '--s0'}`).replace(/\)$/, spec.kind === 'bars' ? ')' : ' / 0.14)') : undefined,
    paths: spec.kind === 'bars' ? uPlot.paths.bars({ size: [0.8, 40], align: 1 }) : undefined,
  });
  return {
    legend: { show: false }, padding: [8, 8, 0, 0],
    cursor: { y: false, points: { show: !drawn }, drag: { x: Boolean(spec.onBrush), y: spec.kind === 'scatter' && Boolean(spec.onBrush), uni: 12, setScale: false } },
    scales: {
      x: { range: (_u, min, max) => (now().range ? now().range?.map(unit) : spread(min, max, now())) },
      y: spec.kind === 'heatmap' ? { range: () => [0, (now().bounds?.length ?? 0) + 1] }
        : spec.log ? { distr: 3, range: (_u, min, max) => [(min || 1) / 1.6, (max || 10) * 1.6] } : { range: (_u, _min, max) => [0, (max || 1) * 1.08] },
    },
    axes: [{ ...axis, size: 26, space: 80, grid: { show: false }, values: (_u, splits) => splits.map((s) => timeShort(us(s))) },
      { ...axis, size: 64, space: 28, ...(spec.log ? { splits: decades } : {}), values: (_u, splits) => splits.map((s) => (s == null ? '' : label(s))) }],
    series: [{}, ...(drawn ? [{ paths: () => null, points: { show: false } }] : (spec.series ?? []).map(series))],
    hooks: drawn ? { draw: [(u) => drawn(u, now())] } : {},
  };
}

/** Powers of ten within a log scale; uPlot's own ticks start at the scale's minimum and look like noise. */
function decades(u) {
  const { min, max } = u.scales.y;
  const splits = [];
  for (let at = Math.ceil(Math.log10(min)); at <= Math.log10(max); at++) splits.push(10 ** at);
  return splits;
}

/** Some air around the points; a heatmap's last step needs its width. */
function spread(min, max, spec) {
  if (min == null) return [Date.now() / 1e3 - 900, Date.now() / 1e3];
  const step = spec.x?.length > 1 ? unit(spec.x[1] - spec.x[0]) : 0;
  const air = spec.kind === 'scatter' ? Math.max(0.5, (max - min) * 0.02) : 0;
  return [min - air, max + air + (spec.kind === 'lines' ? 0 : step) || min + 1];
}

function boundLabel(spec, at) {
  const bounds = spec.bounds ?? [];
  return Number.isInteger(at) && at > 0 ? (at > bounds.length ? '+Inf' : (spec.format ?? number)(bounds[at - 1])) : '';
}

/** A value's row in the heatmap, fractional within its bucket. */
function bucketOf(bounds, value) {
  const at = bounds.findIndex((bound) => value <= bound);
  if (at < 0) return bounds.length + 0.5;
  const low = at ? bounds[at - 1] : 0;
  return at + (value - low) / (bounds[at] - low || 1);
}

const position = (u, spec, point) => [u.valToPos(unit(point.x), 'x', true), u.valToPos(spec.kind === 'heatmap' ? bucketOf(spec.bounds, point.y) : point.y, 'y', true)];

function drawScatter(u, spec) {
  const { ctx } = u;
  const size = 3 * devicePixelRatio;
  const colors = new Map();
  ctx.save();
  ctx.beginPath();
  ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  ctx.clip();
  for (const point of [...(spec.points ?? [])].sort((a, b) => Number(a.error ?? 0) - Number(b.error ?? 0))) {
    const name = point.color ?? '--s0';
    if (!colors.has(name)) colors.set(name, cssColor(name));
    const [x, y] = position(u, spec, point);
    ctx.fillStyle = ctx.strokeStyle = colors.get(name);
    ctx.globalAlpha = inside(spec.selection, point) ? 0.8 : 0.2;
    ctx.beginPath();
    // Errors differ in shape too: colour alone is not enough.
    if (point.error) {
      ctx.lineWidth = 2 * devicePixelRatio;
      ctx.moveTo(x - size, y - size); ctx.lineTo(x + size, y + size); ctx.moveTo(x + size, y - size); ctx.lineTo(x - size, y + size);
      ctx.stroke();
    } else {
      ctx.arc(x, y, size, 0, 7);
      ctx.fill();
    }
  }
  ctx.restore();
}

const inside = (box, { x, y }) => !box || (x >= (box.x0 ?? -Infinity) && x <= (box.x1 ?? Infinity) && y >= (box.y0 ?? -Infinity) && y <= (box.y1 ?? Infinity));

function drawHeatmap(u, spec) {
  const { ctx } = u;
  const top = Math.max(1, ...(spec.cells ?? []).flat());
  const step = spec.x.length > 1 ? spec.x[1] - spec.x[0] : 1e6;
  ctx.save();
  ctx.fillStyle = cssColor('--accent');
  spec.cells?.forEach((column, i) => column.forEach((n, row) => {
    if (!n) return;
    const [x0, x1] = [u.valToPos(unit(spec.x[i]), 'x', true), u.valToPos(unit(spec.x[i] + step), 'x', true)];
    const [y0, y1] = [u.valToPos(row + 1, 'y', true), u.valToPos(row, 'y', true)];
    ctx.globalAlpha = 0.12 + 0.88 * Math.sqrt(n / top);
    ctx.fillRect(x0, y0, Math.max(1, x1 - x0 - 1), y1 - y0 - 1);
  }));
  ctx.restore();
  drawScatter(u, spec);
}

function nearest(u, spec) {
  let [best, found] = [144, /** @type {Point|undefined} */ (undefined)];
  for (const point of spec.points ?? []) {
    const [x, y] = position(u, spec, point);
    const gap = ((x - u.bbox.left) / devicePixelRatio - u.cursor.left) ** 2 + ((y - u.bbox.top) / devicePixelRatio - u.cursor.top) ** 2;
    if (gap < best) [best, found] = [gap, point];
  }
  return found;
}

function hover(u, spec, tip) {
  const point = nearest(u, spec);
  const format = spec.format ?? number;
  const at = u.cursor.idx;
  const lines = [];
  if (point) lines.push(point.label ?? '', `${time(point.x)} · ${format(point.y)}`);
  else if (spec.kind === 'heatmap' && u.cursor.left >= 0 && at != null) {
    const row = Math.floor(u.posToVal(u.cursor.top, 'y'));
    lines.push(`${timeShort(spec.x[at])} · ≤ ${boundLabel(spec, row + 1)}`, `${number(spec.cells?.[at]?.[row] ?? 0)} samples`);
  } else if (spec.kind !== 'scatter' && u.cursor.left >= 0 && at != null) {
    lines.push(timeShort(spec.x[at]), ...(spec.series ?? []).slice(0, 12).map((s) => `${s.label}  ${s.values[at] == null ? '–' : format(s.values[at])}`));
  }
  u.over.style.cursor = point && spec.onPoint ? 'pointer' : '';
  tip.hidden = !lines.length;
  if (!lines.length) return;
  tip.textContent = lines.filter(Boolean).join('\n');
  const x = u.cursor.left > u.over.clientWidth / 2 ? u.cursor.left - tip.offsetWidth - 12 : u.cursor.left + 12;
  tip.style.transform = `translate(${x}px, ${Math.min(Math.max(0, u.cursor.top - 12), u.over.clientHeight - tip.offsetHeight)}px)`;
}

function showSelection(u, { selection }) {
  if (!selection) return u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  const x = (v, fallback) => (v == null ? fallback : Math.min(u.over.clientWidth, Math.max(0, u.valToPos(unit(v), 'x'))));
  const y = (v, fallback) => (v == null ? fallback : Math.min(u.over.clientHeight, Math.max(0, u.valToPos(v, 'y'))));
  const [left, top] = [x(selection.x0, 0), y(selection.y1, 0)];
  u.setSelect({ left, top, width: x(selection.x1, u.over.clientWidth) - left, height: y(selection.y0, u.over.clientHeight) - top }, false);
}

/** The same numbers as a table. */
function twin(spec) {
  const format = (v) => (v == null ? '–' : (spec.format ?? number)(v));
  const table = (head, rows) => html`<table class="plain"><caption class="sr">${spec.title}</caption><thead><tr>${head.map((h) => html`<th scope="col">${h}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((cell, i) => html`<td class=${i ? 'num' : ''}>${cell}</td>`)}</tr>`)}</tbody></table>`;
  const points = () => table(['Time', 'Value', ...(spec.columns ?? ['What'])], (spec.points ?? []).slice(0, 500).map((p) => [time(p.x), format(p.y), ...(p.row ?? [p.label])]));
  if (spec.kind === 'scatter') return points();
  if (spec.kind !== 'heatmap') return table(['Time', ...(spec.series ?? []).map((s) => s.label)], spec.x.map((x, i) => [time(x), ...(spec.series ?? []).map((s) => format(s.values[i]))]));
  return html`${table(['Time', ...(spec.bounds ?? []).map((b) => `≤ ${format(b)}`), '+Inf'], spec.x.map((x, i) => [time(x), ...(spec.cells?.[i] ?? []).map((n) => number(n))]))}
    ${spec.points?.length ? points() : nothing}`;
}
