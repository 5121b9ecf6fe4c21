// The piano roll: notes against time, what has sounded to the left of the line and what is coming to the right of it.
'use strict';

const YOU = '#1f4fae', MODEL = '#b4500b', YOU_LATER = '#b9c9ea', MODEL_LATER = '#efcdb2';
const isBlack = pitch => [1, 3, 6, 8, 10].includes(pitch % 12);

// Notes {start, end, pitch, velocity, model} from keys; those still down end at `now`, or later.
export function notesOf(keys, now = 0) {
  const notes = [], down = new Map();
  for (const key of keys) {
    const before = down.get(key.pitch);
    if (before) before.end = key.time;
    down.delete(key.pitch);
    if (!key.velocity) continue;
    const { pitch, velocity, model } = key;
    const note = { start: key.time, end: Math.max(now, key.time + 0.05), pitch, velocity, model };
    notes.push(note);
    down.set(key.pitch, note);
  }
  return notes;
}

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
  }

  // begins: second where a continuation parts from its parent; null: nowhere.
  draw(keys, now, begins) {
    const { c, width, height } = prepare(this.canvas), notes = notesOf(keys, now), [low, high] = range(notes, 36);
    const span = width < 600 ? 6 : 12, left = 34, plot = width - left, bottom = height - 18;
    const row = bottom / (high - low + 1);
    const from = this.calm.matches ? Math.floor(now / span) * span : now - span * 0.55; // calm: a page is turned
    const x = time => left + (time - from) / span * plot, y = pitch => (high - pitch) * row;
    c.save();
    c.beginPath();
    c.rect(left, 0, plot, bottom);
    c.clip();
    for (let pitch = low; pitch <= high; pitch++) {
      if (isBlack(pitch)) {
        c.fillStyle = '#f4f5f7';
        c.fillRect(left, y(pitch), plot, row);
      }
      if (pitch % 12 === 0) {
        c.fillStyle = '#d9dce2';
        c.fillRect(left, y(pitch) + row - 1, plot, 1);
      }
    }
    if (begins !== null) {
      c.fillStyle = '#8b9099';
      for (let dash = 0; dash < bottom; dash += 8) c.fillRect(x(begins), dash, 1, 4);
    }
    for (const n of notes) {
      if (n.end < from || n.start > from + span) continue;
      const later = n.start > now;
      box(c, x(n.start), y(n.pitch) + 0.5, (n.end - n.start) / span * plot - 1, row - 1);
      c.globalAlpha = later ? 1 : 0.45 + 0.55 * n.velocity / 127;
      c.fillStyle = n.model ? (later ? MODEL_LATER : MODEL) : (later ? YOU_LATER : YOU);
      c.fill();
      c.globalAlpha = 1;
      if (!later) continue;
      c.strokeStyle = n.model ? MODEL : YOU;
      c.stroke();
    }
    c.fillStyle = '#d9730d';
    c.fillRect(x(now) - 1, 0, 2, bottom);
    c.restore();
    this.label(c, { low, high, y, row, x, from, span, bottom, left, width });
  }

  label(c, s) {
    c.fillStyle = '#5b6069';
    c.font = '11px system-ui, sans-serif';
    c.textBaseline = 'middle';
    c.textAlign = 'right';
    for (let pitch = s.low; pitch <= s.high; pitch++)
      if (pitch % 12 === 0 && s.y(pitch) + s.row / 2 > 6)
        c.fillText('C' + (pitch / 12 - 1), s.left - 6, s.y(pitch) + s.row / 2);
    c.textAlign = 'center';
    for (let t = Math.ceil(Math.max(0, s.from)); t <= s.from + s.span; t++)
      if (s.x(t) < s.width - 12 && s.x(t) > s.left + 8)
        c.fillText(Math.floor(t / 60) + ':' + String(t % 60).padStart(2, '0'), s.x(t), s.bottom + 10);
  }
}

// All of a take, small.
export function overview(canvas, keys, seconds, begins) {
  const { c, width, height } = prepare(canvas), notes = notesOf(keys), [low, high] = range(notes, 24);
  const row = height / (high - low + 1), x = time => time / seconds * width;
  c.fillStyle = '#f4f5f7';
  c.fillRect(0, 0, width, height);
  if (begins > 0) {
    c.fillStyle = '#8b9099';
    c.fillRect(x(begins), 0, 1, height);
  }
  for (const n of notes) {
    c.fillStyle = n.model ? MODEL : YOU;
    c.fillRect(x(n.start), (high - n.pitch) * row, Math.max(1, x(n.end - n.start)), Math.max(1.5, row));
  }
}
