// Takes: their keys, a card for each in the list, and the files that they are saved as.
'use strict';
import { state } from './state.js';

export const STEP = 0.01; // seconds, of the server's times

export const clock = s => Math.floor(s / 60) + ':' + String(Math.floor(s % 60)).padStart(2, '0');
const stem = take => take.name.replace(/\.(midi?|kar|rmi|smf)$/i, '');

// The file or duet that a take continues, directly or not.
export function rootOf(take) {
  while (state.takes.has(take.parent)) take = state.takes.get(take.parent);
  return take;
}

// Of a take that is saved, without its end.
export function fileName(take) {
  const root = rootOf(take);
  return root === take ? stem(take) : `${stem(root)}, ${take.name.toLowerCase()}`;
}

// Where a take is played from: shortly before it branches off.
export const cue = take => Math.max(0, take.begins - 4);

// The keys of a message.
export function unpack(flat) {
  const list = [];
  for (let i = 0; i + 3 < flat.length; i += 4)
    list.push({ time: flat[i] * STEP, pitch: flat[i + 1], velocity: flat[i + 2], model: !!flat[i + 3] });
  return list;
}

// Drops what comes after a time, and releases the model's keys there. Returns the player's that are down.
export function cut(keys, time) {
  const down = new Map();
  while (keys.length && keys[keys.length - 1].time > time) keys.pop();
  for (const key of keys) {
    if (key.velocity) down.set(key.pitch, key);
    else down.delete(key.pitch);
  }
  for (const key of down.values()) if (key.model) keys.push({ time, pitch: key.pitch, velocity: 0, model: true });
  return [...down.values()].filter(key => !key.model).map(key => key.pitch);
}

export function save(bytes, name, type) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export function caption(b, text, take) {
  if (b.textContent === text) return;
  b.textContent = text;
  b.setAttribute('aria-label', `${text.replace('↓', 'Save as')}: ${take.name}`);
}

function button(act, text, take, run) {
  const b = document.createElement('button');
  b.dataset.act = act;
  caption(b, text, take);
  b.addEventListener('click', () => run(take));
  return b;
}

function line(take, acts, kind) {
  const element = document.createElement('div');
  element.className = 'line ' + kind;
  element.append(...Object.entries(acts).map(([act, [text, run]]) => button(act, text, take, run)));
  return element;
}

function describe(take, parent) {
  if (take.growing) return parent ? clock(take.end) + ', the model composes…' : 'in progress';
  return clock(take.end) + (parent ? `, continues ${parent.name} from ${clock(take.begins)}` : '');
}

// A take in the list. main, more: text and action of its buttons; choose(take, second): its picture was clicked there.
export function card(take, parent, { main, more }, choose) {
  const item = document.createElement('li'), head = document.createElement('div');
  const name = document.createElement('span'), from = document.createElement('span');
  item.dataset.take = take.number;
  item.classList.toggle('kept', !!take.kept);
  name.className = 'name';
  name.textContent = take.name;
  from.className = 'from';
  head.append(name, ' ', from);
  const picture = document.createElement('canvas');
  picture.addEventListener('click', event => choose(take, event.offsetX / picture.clientWidth * take.end));
  item.append(head, picture, line(take, main, 'main'), line(take, more, 'more'));
  item.button = Object.fromEntries([...item.querySelectorAll('button')].map(b => [b.dataset.act, b]));
  item.tell = () => { from.textContent = describe(take, parent); };
  item.tell();
  return item;
}
