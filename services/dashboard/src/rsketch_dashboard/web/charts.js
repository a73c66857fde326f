/**
 * Charts: `<rs-chart .spec=${…}>` on a canvas, each with a table twin, and sparklines.
 *
 * Colours are classes of the palette or custom properties, so that both themes and forced colours reach the canvas.
 */
import { html, icon, nothing, number, render, svg, time, timeShort } from './lib.js';

/**
 * A spec: kind ('lines', stacked 'bars', 'scatter', 'heatmap'), title, note, height, x (times in us), format, log,
 * series ({label, values, color}), points ({x, y, color, label, error, row}; *columns* head their rows in the table),
 * cells (one array per step) under upper *bounds* (the last cell is +Inf), selection ({x0, x1, y0, y1}), onBrush, onPoint.
 * A scatter draws its points; its series are only its legend.
 */

const PAD = { left: 62, right: 10, top: 10, bottom: 24 };

const probe = document.createElement('i');
/** The computed colour of a property or a palette's class: canvas knows no `var()`. */
export function cssColor(name) {
  if (!probe.parentNode) document.body.append(probe);
  // Forced colours may have the axes, but series must stay apart.
  probe.style.forcedColorAdjust = /muted|line|text/.test(name) ? '' : 'none';
  probe.className = name;
  probe.style.color = name.startsWith('--') ? `var(${name})` : 'var(--c)';
  return getComputedStyle(probe).color;
}

/** Counts as small bars, the errors among them in red. Attributes only: CSP allows no style text. */
export function sparkline(counts, errors = [], width = 120, height = 24) {
  const top = Math.max(1, ...counts);
  const w = width / counts.length;
  const bar = (n, i, name) => {
    const tall = Math.max(1.5, (n / top) * height);
    return n ? svg`<rect class=${name} x=${(i * w).toFixed(2)} width=${Math.max(1, w - 0.8).toFixed(2)} y=${(height - tall).toFixed(1)} height=${tall.toFixed(1)}></rect>` : nothing;
  };
  return html`<svg class="spark" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" aria-hidden="true">
    ${counts.map((n, i) => bar(n, i, ''))}${errors.map((n, i) => bar(n, i, 'error'))}</svg>`;
}

class Chart extends HTMLElement {
  #spec;
  #scales;
  #drag = null;
  #moved = -Infinity;
  #table = false;
  #resize = new ResizeObserver(() => this.#paint());
  #repaint = () => this.#paint();

  set spec(value) {
    this.#spec = { height: 180, format: number, note: '', series: [], points: [], columns: ['What'], bounds: [], cells: [], ...value };
    // A live update must not move a dot or the box from under the pointer.
    if (this.isConnected && !this.#drag && performance.now() - this.#moved > 1500) this.#draw();
  }

  connectedCallback() {
    this.#draw();
    window.addEventListener('theme', this.#repaint);
    this.#resize.observe(this);
  }

  disconnectedCallback() {
    window.removeEventListener('theme', this.#repaint);
    this.#resize.disconnect();
  }

  #draw() {
    const spec = this.#spec;
    if (!spec) return;
    const say = this.#table ? 'Show as chart' : 'Show as table';
    render(html`<figure class="chart"><figcaption><b>${spec.title}</b><span class="muted">${spec.note}</span>
      ${spec.series.length > 1 ? html`<span class="legend">${spec.series.map((s) => html`<span><i class="dot ${s.color.replace('--', '')}"></i>${s.label}</span>`)}</span>` : nothing}
      <button class="ghost" type="button" aria-label=${say} @click=${() => { this.#table = !this.#table; this.#draw(); }}>${icon('table')}<span>${say}</span></button></figcaption>
      ${this.#table ? html`<div class="scroll" tabindex="0" role="region" aria-label=${spec.title}>${twin(spec)}</div>`
        : html`<div class="plot ${spec.onBrush ? 'brush' : ''}" @pointerdown=${this.#press} @pointermove=${this.#move} @pointerup=${this.#release} @pointerleave=${this.#leave}>
          <canvas role="img" aria-label="${spec.title}. Show as table gives the same numbers."></canvas><i class="rule" hidden></i><i class="box" hidden></i><div class="tip" hidden></div></div>`}</figure>`, this);
    this.#paint();
  }

  #part = (name) => this.querySelector(name);

  #paint() {
    const [spec, canvas] = [this.#spec, this.#part('canvas')];
    if (!spec || !canvas) return;
    const [width, height] = [this.clientWidth, spec.height];
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext('2d');
    context.scale(devicePixelRatio, devicePixelRatio);
    this.#scales = scalesOf(spec, width, height);
    axes(context, spec, this.#scales);
    DRAW[spec.kind](context, spec, this.#scales);
    if (!this.#drag) this.#select(spec.selection);
  }

  #select(box) {
    const host = this.#part('.box');
    const s = this.#scales;
    host.hidden = !box;
    if (!box) return;
    const clamp = (v, a, b) => Math.min(b, Math.max(a, v));
    const [left, right] = [clamp(box.x0 == null ? s.x0 : s.x(box.x0), s.x0, s.x1), clamp(box.x1 == null ? s.x1 : s.x(box.x1), s.x0, s.x1)];
    const [top, bottom] = [clamp(box.y1 == null ? s.y1 : s.y(box.y1), s.y1, s.y0), clamp(box.y0 == null ? s.y0 : s.y(box.y0), s.y1, s.y0)];
    Object.assign(host.style, { left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px` });
  }

  #at = (event) => {
    const box = this.#part('canvas').getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };

  #press = (event) => {
    if (event.button || !this.#scales) return;
    this.#drag = this.#at(event);
    if (this.#spec.onBrush) event.currentTarget.setPointerCapture(event.pointerId);
  };

  #move = (event) => {
    const at = this.#at(event);
    this.#moved = performance.now();
    if (this.#drag && this.#spec.onBrush) this.#select(this.#boxTo(at));
    else this.#hover(at);
  };

  #release = (event) => {
    const [at, spec] = [this.#at(event), this.#spec];
    const box = this.#drag && spec.onBrush && this.#boxTo(at);
    this.#drag = null;
    this.#moved = -Infinity;
    const point = !box && nearest(spec, this.#scales, at);
    if (box) spec.onBrush?.(box);
    else if (point) spec.onPoint?.(point);
  };

  #leave = () => {
    this.#drag = null;
    this.#moved = -Infinity;
    this.#part('.tip').hidden = this.#part('.rule').hidden = true;
    this.#draw();
  };

  /** The dragged box; a drag along one axis leaves the other open. */
  #boxTo(at) {
    const [s, from] = [this.#scales, this.#drag];
    const both = this.#spec.kind === 'scatter' || this.#spec.kind === 'heatmap';
    const [wide, tall] = [Math.abs(at.x - from.x) > 8, both && Math.abs(at.y - from.y) > 8];
    if (!wide && !tall) return this.#spec.kind === 'bars' ? this.#stepAt(s.atX(at.x)) : undefined;
    const [x, y] = [[from.x, at.x].sort((a, b) => a - b), [from.y, at.y].sort((a, b) => a - b)];
    return {
      ...(wide ? { x0: Math.round(s.atX(x[0])), x1: Math.round(s.atX(x[1])) } : {}),
      ...(tall ? { y0: s.atY(y[1]), y1: s.atY(y[0]) } : {}),
    };
  }

  #stepAt(us) {
    const x = this.#spec.x ?? [];
    const from = x.findLast((each) => each <= us) ?? x[0];
    return from && { x0: from, x1: from + (x[1] - x[0] || 1e6) };
  }

  #hover(at) {
    const [spec, s, tip, rule] = [this.#spec, this.#scales, this.#part('.tip'), this.#part('.rule')];
    const inside = at.x >= s.x0 && at.x <= s.x1 && at.y >= s.y1 && at.y <= s.y0;
    const { lines, point } = inside ? describe(spec, s, at) : { lines: [], point: undefined };
    this.#part('.plot').classList.toggle('over', Boolean(point && spec.onPoint));
    tip.hidden = !lines.length;
    rule.hidden = !inside || spec.kind === 'scatter';
    rule.style.transform = `translateX(${at.x}px)`;
    rule.style.height = `${s.y0}px`;
    tip.textContent = lines.join('\n');
    const left = at.x > this.clientWidth / 2 ? at.x - tip.offsetWidth - 14 : at.x + 14;
    tip.style.transform = `translate(${Math.max(0, left)}px, ${Math.max(0, Math.min(at.y - 12, s.y0 - tip.offsetHeight))}px)`;
  }
}
customElements.define('rs-chart', Chart);

function scalesOf(spec, width, height) {
  const xs = spec.kind === 'scatter' ? spec.points.map((p) => p.x) : spec.x;
  const step = spec.x.length > 1 ? spec.x[1] - spec.x[0] : 0;
  let [from, to] = [low(xs, Date.now() * 1e3 - 9e8), high(xs, Date.now() * 1e3) + (spec.kind === 'lines' ? 0 : step)];
  if (spec.kind === 'scatter') [from, to] = [from - (to - from) * 0.02 - 5e5, to + (to - from) * 0.02 + 5e5];
  const [bottom, top] = extent(spec);
  const bend = spec.log ? Math.log10 : (v) => v;
  const back = spec.log ? (v) => 10 ** v : (v) => v;
  const [b, t] = [bend(bottom), bend(top)];
  const [x0, x1, y0, y1] = [PAD.left, Math.max(PAD.left + 1, width - PAD.right), height - PAD.bottom, PAD.top];
  return {
    x0, x1, y0, y1,
    x: (v) => x0 + ((v - from) / (to - from || 1)) * (x1 - x0),
    y: (v) => y0 - ((bend(v) - b) / (t - b || 1)) * (y0 - y1),
    atX: (px) => from + ((px - x0) / (x1 - x0)) * (to - from),
    atY: (px) => back(b + ((y0 - px) / (y0 - y1)) * (t - b)),
  };
}

const low = (values, fallback) => values.reduce((a, v) => (v != null && !(a <= v) ? v : a), undefined) ?? fallback;
const high = (values, fallback) => values.reduce((a, v) => (v != null && !(a >= v) ? v : a), undefined) ?? fallback;

function extent(spec) {
  if (spec.kind === 'heatmap') return [0, spec.bounds.length + 1];
  const values = spec.kind === 'scatter' ? spec.points.map((p) => p.y) : spec.kind === 'bars' ? stacks(spec).at(-1)?.map(([, b]) => b) ?? [] : spec.series.flatMap((s) => s.values);
  if (spec.log) return [low(values, 1e6) / 1.6, high(values, 1e9) * 1.6];
  const top = high(values, 1) * 1.08;
  return [Math.min(0, low(values, 0)), top > 0 ? top : 1];
}

const SECONDS = [0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];

function timeTicks(s) {
  const [from, to] = [s.atX(s.x0), s.atX(s.x1)];
  const step = (SECONDS.find((sec) => (to - from) / 1e6 / sec <= (s.x1 - s.x0) / 84) ?? 86400) * 1e6;
  return range(Math.ceil(from / step) * step, to, step);
}

function valueTicks(spec, s) {
  const [from, to, room] = [s.atY(s.y0), s.atY(s.y1), (s.y0 - s.y1) / 34];
  if (spec.log) return range(Math.ceil(Math.log10(from)), Math.log10(to), 1).map((power) => 10 ** power);
  const rough = (to - from) / room;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * size).find((n) => n >= rough) ?? size;
  return range(Math.ceil(from / step) * step, to, spec.kind === 'heatmap' ? Math.max(1, Math.round(step)) : step);
}

function range(from, to, step) {
  const out = [];
  for (let i = 0; from + i * step <= to && i < 60; i++) out.push(from + i * step);
  return out;
}

const boundLabel = (spec, at) => (at < 1 ? '' : at > spec.bounds.length ? '+Inf' : spec.format(spec.bounds[at - 1]));

function axes(context, spec, s) {
  context.font = '11px system-ui, sans-serif';
  context.fillStyle = cssColor('--muted');
  context.strokeStyle = cssColor('--line');
  context.textBaseline = 'middle';
  context.textAlign = 'right';
  for (const tick of valueTicks(spec, s)) {
    const y = Math.round(s.y(tick)) + 0.5;
    context.beginPath();
    context.moveTo(s.x0, y);
    context.lineTo(s.x1, y);
    context.stroke();
    context.fillText(spec.kind === 'heatmap' ? boundLabel(spec, tick) : spec.format(tick), s.x0 - 8, y, PAD.left - 10);
  }
  context.textAlign = 'center';
  for (const tick of timeTicks(s)) if (s.x(tick) < s.x1 - 16) context.fillText(timeShort(tick), s.x(tick), s.y0 + 14);
}

/** [from, to] of every series and step, the last series on top. */
function stacks(spec) {
  const sums = spec.x.map(() => 0);
  return spec.series.map((s) => s.values.map((v, i) => [sums[i], (sums[i] += v ?? 0)]));
}

const DRAW = {
  lines(context, spec, s) {
    for (const each of spec.series) line(context, spec, s, each);
  },
  bars(context, spec, s) {
    const step = spec.x.length > 1 ? s.x(spec.x[1]) - s.x(spec.x[0]) : 12;
    stacks(spec).forEach((stack, k) => {
      context.fillStyle = cssColor(spec.series[k].color ?? 'c0');
      stack.forEach(([a, b], i) => { if (b > a) context.fillRect(s.x(spec.x[i]), s.y(b), Math.max(1, step - 1), s.y(a) - s.y(b)); });
    });
  },
  scatter: dots,
  heatmap(context, spec, s) {
    const top = high(spec.cells.flat(), 1) || 1;
    const step = spec.x.length > 1 ? s.x(spec.x[1]) - s.x(spec.x[0]) : 12;
    context.fillStyle = cssColor('--accent');
    spec.cells.forEach((column, i) => column.forEach((n, row) => {
      context.globalAlpha = 0.12 + 0.88 * Math.sqrt(n / top);
      if (n) context.fillRect(s.x(spec.x[i]), s.y(row + 1), Math.max(1, step - 1), s.y(row) - s.y(row + 1) - 1);
    }));
    dots(context, spec, s);
  },
};

function line(context, spec, s, { values, color = 'c0' }) {
  context.strokeStyle = context.fillStyle = cssColor(color);
  context.lineWidth = 1.75;
  context.lineJoin = 'round';
  // A gap ends a stretch; a lone value is a dot, which a path would not show.
  let stretch = [];
  const flush = () => {
    context.beginPath();
    if (stretch.length === 1) context.arc(...stretch[0], 2, 0, 7);
    for (const at of stretch) context.lineTo(...at);
    stretch.length === 1 ? context.fill() : context.stroke();
    stretch = [];
  };
  values.forEach((value, i) => { if (value == null) flush(); else stretch.push([s.x(spec.x[i]), s.y(value)]); });
  flush();
}

/** A point's place; on a heatmap its value lies within a bucket's row. */
function place(spec, s, point) {
  if (spec.kind !== 'heatmap') return [s.x(point.x), s.y(point.y)];
  const found = spec.bounds.findIndex((bound) => point.y <= bound);
  const at = found < 0 ? spec.bounds.length : found;
  const floor = at ? spec.bounds[at - 1] : 0;
  return [s.x(point.x), s.y(at + (found < 0 ? 0.5 : (point.y - floor) / (spec.bounds[at] - floor || 1)))];
}

function dots(context, spec, s) {
  const colors = new Map();
  const { selection: box } = spec;
  const within = ({ x, y }) => !box || (x >= (box.x0 ?? x) && x <= (box.x1 ?? x) && y >= (box.y0 ?? y) && y <= (box.y1 ?? y));
  context.lineWidth = 2;
  for (const point of [...spec.points].sort((a, b) => Number(a.error ?? 0) - Number(b.error ?? 0))) {
    const name = point.color ?? 'c0';
    if (!colors.has(name)) colors.set(name, cssColor(name));
    const [x, y] = place(spec, s, point);
    context.fillStyle = context.strokeStyle = colors.get(name);
    context.globalAlpha = within(point) ? 0.8 : 0.18;
    context.beginPath();
    // Errors differ in shape too: colour alone is not enough.
    if (point.error) {
      for (const [dx, dy] of [[3, 3], [3, -3]]) { context.moveTo(x - dx, y - dy); context.lineTo(x + dx, y + dy); }
      context.stroke();
    } else {
      context.arc(x, y, spec.kind === 'heatmap' ? 2 : 3, 0, 7);
      context.fill();
    }
  }
  context.globalAlpha = 1;
}

function nearest(spec, s, at) {
  let [best, found] = [144, undefined];
  for (const point of spec.points) {
    const [x, y] = place(spec, s, point);
    const gap = (x - at.x) ** 2 + (y - at.y) ** 2;
    if (gap < best) [best, found] = [gap, point];
  }
  return found;
}

function describe(spec, s, at) {
  const format = spec.format;
  const point = nearest(spec, s, at);
  if (point) return { point, lines: [...(point.label ? [point.label] : []), `${time(point.x)} · ${format(point.y)}`] };
  if (spec.kind === 'scatter' || !spec.x.length) return { lines: [] };
  const us = s.atX(at.x);
  const half = spec.kind === 'lines' && spec.x.length > 1 ? (spec.x[1] - spec.x[0]) / 2 : 0;
  const i = Math.max(0, spec.x.findLastIndex((x) => x - half <= us));
  const head = timeShort(spec.x[i]);
  if (spec.kind !== 'heatmap') return { lines: [head, ...spec.series.slice(0, 12).map((each) => `${each.label}  ${each.values[i] == null ? '–' : format(each.values[i])}`)] };
  const row = Math.floor(s.atY(at.y));
  return { lines: [`${head} · ≤ ${boundLabel(spec, row + 1)}`, `${number(spec.cells[i]?.[row] ?? 0)} samples`] };
}

function twin(spec) {
  const { series, bounds, points, x } = spec;
  const format = (v) => (v == null ? '–' : spec.format(v));
  const table = (head, rows) => html`<table class="plain"><caption class="sr">${spec.title}</caption><thead><tr>${head.map((h) => html`<th scope="col">${h}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((cell, i) => html`<td class=${i ? 'num' : ''}>${cell}</td>`)}</tr>`)}</tbody></table>`;
  const listed = () => table(['Time', 'Value', ...spec.columns], points.slice(0, 500).map((p) => [time(p.x), format(p.y), ...(p.row ?? [p.label])]));
  if (spec.kind === 'scatter') return listed();
  if (spec.kind !== 'heatmap') return table(['Time', ...series.map((s) => s.label)], x.map((at, i) => [time(at), ...series.map((s) => format(s.values[i]))]));
  return html`${table(['Time', ...bounds.map((b) => `≤ ${format(b)}`), '+Inf'], x.map((at, i) => [time(at), ...spec.cells[i].map((n) => number(n))]))}
    ${points.length ? listed() : nothing}`;
}
