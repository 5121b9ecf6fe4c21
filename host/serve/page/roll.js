// The piano roll: notes against time, what has sounded to the left of the line and what is coming to the right of it.
'use strict';

const YOU = '#1f4fae', MODEL = '#b4500b', YOU_LATER = '#dbe4f6', MODEL_LATER = '#f9dfca';
const LINE = '#d9730d', LATER = '#fdf8f2', BLACK = '#f4f5f7', BLACK_LATER = '#f6efe6', OCTAVE = '#d9dce2';
const PALE = '#5b6069';
const isBlack = pitch => [1, 3, 6, 8, 10].includes(pitch % 12);

// Notes {start, end, pitch, velocity, model} from keys; end Infinity: still down after the last key.
export function notesOf(keys) {
  const notes = [], down = new Map();
  for (const key of keys) {
    const before = down.get(key.pitch);
    if (before) before.end = key.time;
    down.delete(key.pitch);
    if (!key.velocity) continue;
    const { pitch, velocity, model } = key;
    const note = { start: key.time, end: Infinity, pitch, velocity, model };
    notes.push(note);
    down.set(key.pitch, note);
  }
  return notes;
}

const lastOf = keys => keys.length ? keys[keys.length - 1] : { time: 0 };

function range(notes, least) {
  let low = 127, high = 0;
  for (const n of notes) {
    low = Math.min(low, n.pitch);
    high = Math.max(high, n.pitch);
  }
  if (low > high) [low, high] = [48, 84];
  low -= 2;
  high += 2;
  for (; high - low < least; low--, high++) ;
  return [Math.max(0, low), Math.min(127, high)];
}

// The canvas's context, sized to the pixels of the screen.
function prepare(canvas) {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const c = canvas.getContext('2d');
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.clearRect(0, 0, width, height);
  return { c, width, height };
}

function box(c, x, y, w, h) {
  c.beginPath();
  c.roundRect(x, y, Math.max(2, w), Math.max(2, h), Math.min(3, h / 2));
}

export class Roll {
  constructor(canvas) {
    this.canvas = canvas;
    this.calm = matchMedia('(prefers-reduced-motion: reduce)');
    this.of = {};
  }

  // Notes and range of keys, which change by their number or their last one.
  read(keys) {
    const { keys: before, count, last } = this.of;
    if (keys === before && keys.length === count && lastOf(keys) === last) return this.of;
    const notes = notesOf(keys);
    this.of = { keys, count: keys.length, last: lastOf(keys), notes, range: range(notes, 36) };
    return this.of;
  }

  timeAt(x) { return this.from + (x - this.left) / this.plot * this.span; }

  seconds(dx) { return dx / this.plot * this.span; }

  x(time) { return this.left + (time - this.from) / this.span * this.plot; }

  // begins: second where a continuation parts from its parent; null: nowhere.
  draw(keys, now, begins) {
    const { c, width, height } = prepare(this.canvas), { notes, range: [low, high], last } = this.read(keys);
    const left = 34, bottom = height - 20, row = bottom / (high - low + 1), span = width < 600 ? 6 : 12;
    const half = span / 2, from = this.calm.matches ? Math.floor(now / half) * half : now - half; // calm: a page turns
    const plot = width - left, y = pitch => (high - pitch) * row;
    Object.assign(this, { left, plot, span, from });
    c.save();
    c.beginPath();
    c.rect(left, 0, plot, bottom);
    c.clip();
    this.rows(c, { low, high, y, row, bottom, line: Math.max(left, this.x(now)) });
    if (begins !== null) {
      c.fillStyle = '#6d727b';
      for (let dash = 0; dash < bottom; dash += 8) c.fillRect(this.x(begins), dash, 1, 4);
    }
    const horizon = Math.max(now, last.time); // a key that is down may last longer
    for (const n of notes) this.note(c, n, { now, end: Math.min(n.end, Math.max(horizon, n.start + 0.05)), y, row });
    c.restore();
    c.fillStyle = LINE;
    c.fillRect(this.x(now) - 1, 0, 2, bottom);
    this.label(c, { low, high, y, row, bottom, width });
  }

  // Those of black keys are darker, and what is to come has a ground of its own.
  rows(c, { low, high, y, row, bottom, line }) {
    const later = this.left + this.plot - line;
    c.fillStyle = LATER;
    c.fillRect(line, 0, later, bottom);
    for (let pitch = low; pitch <= high; pitch++) {
      if (isBlack(pitch)) {
        c.fillStyle = BLACK;
        c.fillRect(this.left, y(pitch), this.plot, row);
        c.fillStyle = BLACK_LATER;
        c.fillRect(line, y(pitch), later, row);
      }
      if (pitch % 12) continue;
      c.fillStyle = OCTAVE;
      c.fillRect(this.left, y(pitch) + row - 1, this.plot, 1);
    }
  }

  // What has sounded is filled; what is coming is an outline.
  note(c, n, { now, end, y, row }) {
    if (end < this.from || n.start > this.from + this.span) return;
    const part = until => box(c, this.x(n.start) + 0.5, y(n.pitch) + 0.5, this.x(until) - this.x(n.start) - 1, row - 1);
    if (end > now) {
      part(end);
      c.fillStyle = n.model ? MODEL_LATER : YOU_LATER;
      c.strokeStyle = n.model ? MODEL : YOU;
      c.fill();
      c.stroke();
    }
    if (n.start > now) return;
    part(Math.min(end, now));
    c.fillStyle = n.model ? MODEL : YOU;
    c.globalAlpha = 0.55 + 0.45 * n.velocity / 127;
    c.fill();
    c.globalAlpha = 1;
  }

  label(c, s) {
    c.fillStyle = PALE;
    c.font = '12px system-ui, sans-serif';
    c.textBaseline = 'middle';
    c.textAlign = 'right';
    for (let pitch = s.low; pitch <= s.high; pitch++)
      if (pitch % 12 === 0 && s.y(pitch) + s.row / 2 > 6)
        c.fillText('C' + (pitch / 12 - 1), this.left - 6, s.y(pitch) + s.row / 2);
    c.textAlign = 'center';
    for (let t = Math.ceil(Math.max(0, this.from)); t <= this.from + this.span; t++)
      if (this.x(t) < s.width - 14 && this.x(t) > this.left + 10)
        c.fillText(Math.floor(t / 60) + ':' + String(t % 60).padStart(2, '0'), this.x(t), s.bottom + 11);
  }
}

// All of a take, small.
export function overview(canvas, keys, seconds, begins) {
  const { c, width, height } = prepare(canvas), notes = notesOf(keys), [low, high] = range(notes, 24);
  const row = height / (high - low + 1), x = time => time / seconds * width;
  c.fillStyle = '#f4f5f7';
  c.fillRect(0, 0, width, height);
  if (begins > 0) {
    c.fillStyle = '#6d727b';
    c.fillRect(x(begins), 0, 1, height);
  }
  for (const n of notes) {
    c.fillStyle = n.model ? MODEL : YOU;
    const wide = x(Math.min(n.end, seconds) - n.start);
    c.fillRect(x(n.start), (high - n.pitch) * row, Math.max(1, wide), Math.max(1.5, row));
  }
}
