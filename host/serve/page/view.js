// What is seen: the stage, the list of takes, the figures.
'use strict';
import { Roll, overview } from './roll.js';
import { $, ELSEWHERE, context, duet, inside, now, shown, state } from './state.js';
import { caption, card, clock, rootOf } from './takes.js';

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
    if (take.page && items.has(take)) label(take);
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

// Of a duet.
function figures() {
  const { player, current, latency, trip } = state, parts = [];
  const late = state.late + (player ? player.late : 0), played = state.played + (player ? player.played : 0);
  if (state.mode === 'answering' && current.keys.length) {
    const margin = current.keys[current.keys.length - 1].time - now();
    parts.push(`the model is ${Math.abs(margin).toFixed(1)} s ${margin < 0 ? 'behind' : 'ahead'}`);
  }
  if (latency.length) parts.push(`the model’s first note comes ${median(latency).toFixed(0)} ms after you hand over`);
  if (trip.length) parts.push(`round trip ${median(trip).toFixed(0)} ms`);
  if (played) parts.push(`${late} of ${played} notes late`);
  $('figures').textContent = duet() ? parts.join(' · ') : '';
}

// What a take's buttons say depends on where the line stands.
function label(take) {
  const current = take === state.current;
  const item = items.get(take);
  const say = (act, text, disabled = false) => {
    caption(item.button[act], text, take);
    item.button[act].disabled = disabled;
  };
  const waits = take.parent >= 0 ? 'Composing…' : 'In a duet…', { offline } = state;
  const proceed = inside(take) ? 'Continue from ' + clock(now()) : 'Continue';
  say('Play', current && state.mode === 'playing' ? 'Stop' : 'Play');
  say('Continue', take.growing ? waits : proceed, take.growing || !!offline);
  say('Keep', take.kept ? '★ Kept' : '☆ Keep');
  say('MIDI', '↓ MIDI', !!offline);
  say('WAV', take.sound === undefined ? '↓ WAV' : `WAV ${Math.round(100 * take.sound)} %`, take.sound !== undefined);
  say('Page', take.page ? `Page ${((performance.now() - take.page) / 1000).toFixed(0)} s` : '↓ Page',
    !!take.page || !!offline);
  item.classList.toggle('current', current);
}

const READY = 'Ready: start a duet, or open a MIDI file.';

// What the page is doing.
function doing() {
  const { mode, current, player } = state, made = shown().find(take => take.page || take.sound !== undefined);
  if (mode === 'waiting') return 'A duet begins…';
  if (mode === 'listening') return state.turn ? 'Your turn: the model listens.' : 'Your turn: play.';
  if (mode === 'answering') return 'The model’s turn: play to take over.';
  if (mode === 'playing') return `Playing ${current.name}` + (player.held !== null ? ': waiting for the model…' : '.');
  if (state.follow || shown().some(take => take.growing && take.parent >= 0)) return state.composing;
  if (made) return `Making the ${made.page ? 'page' : 'sound'} of ${made.name}…`;
  return shown().length ? 'Ready.' : READY;
}

function tell() {
  const { offline, notice, mode } = state, text = offline || (notice ? notice.text : doing());
  const turn = offline || notice ? '' : { listening: 'you', answering: 'model' }[mode] || '';
  if ($('status').textContent !== text) $('status').textContent = text; // else it would be read out again
  $('status').classList.toggle('error', offline ? offline.startsWith('No ') : !!notice && notice.error);
  $('status').dataset.turn = turn;
}

export function show() {
  const take = state.current, end = take ? Math.max(take.end, duet() ? now() : 0) : 0, at = now();
  $('play').textContent = state.mode === 'playing' ? 'Stop' : 'Play';
  $('play').disabled = duet() || state.mode === 'waiting' || !take || !take.keys.length;
  $('duet').textContent = duet() ? 'End the duet' : 'Start a duet';
  $('duet').disabled = !!state.offline || state.mode === 'waiting';
  $('answer').disabled = !duet();
  const gone = state.removed[state.removed.length - 1];
  $('undo').hidden = !gone;
  if (gone) $('undo').textContent = 'Bring back ' + gone.name;
  $('here').hidden = state.offline !== ELSEWHERE;
  $('turn').textContent = state.mode === 'answering' ? 'My turn' : 'Answer';
  $('thinned').textContent = state.mode === 'answering' ? THINNED[state.thinned] || '' : '';
  $('whose').textContent = take && rootOf(take).given ? 'file' : 'you';
  tell();
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
