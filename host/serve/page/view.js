// What is seen: the stage, the list of takes, the figures.
'use strict';
import { Roll, overview } from './roll.js';
import { $, context, duet, inside, now, shown, state } from './state.js';
import { card, clock } from './takes.js';

const roll = new Roll($('roll'));
let acts = null, choose = null;

// What the buttons of a take do: see card().
export function setActs(buttons, chooser) {
  acts = buttons;
  choose = chooser;
}

const items = new Map(); // take -> its element

// The kept ones first, then the latest.
export function list() {
  const held = document.activeElement.closest('#takes li'), act = document.activeElement.dataset.act;
  const takes = shown().sort((a, b) => (b.kept || 0) - (a.kept || 0) || b.number - a.number);
  items.clear();
  for (const take of takes) items.set(take, card(take, state.takes.get(take.parent), acts, choose));
  $('takes').replaceChildren(...items.values());
  $('none').hidden = takes.length > 0;
  for (const take of takes) picture(take);
  const again = held && items.get(state.takes.get(+held.dataset.take));
  if (again && again.button[act]) again.button[act].focus();
}

function picture(take) {
  const end = duet() && take === state.current ? now() : take.end;
  overview(items.get(take).querySelector('canvas'), take.keys, Math.max(1, end), take.begins);
}

// Those that grow; the others stay.
export function redraw() {
  for (const take of shown()) {
    if (!take.growing || !items.has(take)) continue;
    items.get(take).tell();
    picture(take);
  }
}

function median(list) {
  const sorted = [...list].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

const THINNED = ['', 'Busy machine: new takes wait.', 'Busy machine: the model plays fewer notes.'];

function figures() {
  const { player, current, latency, trip } = state, parts = [];
  const late = state.late + (player ? player.late : 0), played = state.played + (player ? player.played : 0);
  if (state.mode === 'answering' && current.keys.length) {
    const margin = Math.max(0, current.keys[current.keys.length - 1].time - now());
    parts.push(`model ${margin.toFixed(1)} s ahead`);
  }
  if (player && player.held !== null) parts.push('waiting for the model');
  if (latency.length) parts.push(`first note after ${median(latency).toFixed(0)} ms`);
  if (trip.length) parts.push(`round trip ${median(trip).toFixed(0)} ms`);
  if (played) parts.push(`${late} of ${played} notes late`);
  $('figures').textContent = parts.join(' · ');
}

// What a take's buttons say depends on where the line stands.
function label(take) {
  const current = take === state.current;
  const item = items.get(take);
  const say = (act, text) => {
    if (item.button[act].textContent === text) return;
    item.button[act].textContent = text;
    item.button[act].setAttribute('aria-label', `${text}: ${take.name}`);
  };
  say('Play', current && state.mode === 'playing' ? 'Stop' : 'Play');
  say('Continue', inside(take) ? 'Continue from ' + clock(now()) : 'Continue');
  say('Keep', take.kept ? '★ Kept' : '☆ Keep');
  item.button.Continue.disabled = take.growing;
  item.classList.toggle('current', current);
}

export function show() {
  const take = state.current, end = take ? Math.max(take.end, duet() ? now() : 0) : 0, at = now();
  $('play').textContent = state.mode === 'playing' ? 'Stop' : 'Play';
  $('play').disabled = duet() || state.mode === 'waiting' || !take || !take.keys.length;
  $('duet').textContent = duet() ? 'End the duet' : 'Start a duet';
  $('answer').disabled = !duet();
  $('turn').textContent = state.mode === 'answering' ? 'My turn' : 'Answer';
  $('thinned').textContent = THINNED[state.thinned] || '';
  $('status').dataset.turn = { listening: 'you', answering: 'model' }[state.mode] || '';
  $('seek').max = end;
  $('seek').value = at;
  $('seek').disabled = !take || duet();
  $('seek').setAttribute('aria-valuetext', clock(at) + ' of ' + clock(end));
  $('time').textContent = clock(at) + ' / ' + clock(end);
  $('welcome').hidden = state.takes.size > 0 || state.mode !== 'idle';
  for (const one of items.keys()) label(one);
  roll.draw(take ? take.keys : [], at, take && take.parent >= 0 ? take.begins : null);
  $('roll').setAttribute('aria-label', take ? 'Piano roll: ' + take.name : 'Piano roll, empty');
}

export function lightKeys(keys) {
  const lit = new Set();
  if (state.player)
    for (const [pitch, voice] of state.player.sounding) if (voice.when <= context.currentTime) lit.add(pitch);
  for (const [pitch, key] of keys.keys) key.classList.toggle('model', lit.has(pitch));
}

export { figures, roll };
