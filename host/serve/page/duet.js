// The duet: the player's keys, and whose turn it is.
'use strict';
import { Player } from './audio.js';
import { $, context, duet, how, now, say, seed, state, status } from './state.js';
import { cut } from './takes.js';
import { halt, ready, silence } from './transport.js';
import { show } from './view.js';

const PAUSE = 1.2; // seconds
const LEAST = 8; // strokes and releases before a pause counts
const own = new Map(); // pitches that are down or held by the pedal -> {sound, voice}; voice null: makes none here

export async function startDuet() {
  halt();
  state.mode = 'waiting';
  state.turn = 0;
  show();
  if (await ready()) say({ do: 'duet', ...how(), seed: seed() });
}

export function begin() {
  Object.assign(state, { mode: 'listening', base: null, struck: 0, touched: performance.now() });
  Object.assign(state, { latency: [], trip: [], late: 0, played: 0, thinned: 0 }); // figures of this duet
  status('');
  $('answer').disabled = false;
  $('answer').focus(); // Enter and Space then hand over; on the other button they would end the duet
}

const timeOf = ago => Math.max(0, context.currentTime - ago - state.base);

function tell(pitch, velocity, time) {
  state.current.keys.push({ time, pitch, velocity, model: false });
  say({ do: 'key', time, pitch, velocity });
}

// midi: on a MIDI keyboard.
export function strike(pitch, velocity, ago, midi) {
  context.resume();
  const before = own.get(pitch), { sound } = state;
  if (before && before.voice) before.sound.release(before.voice);
  own.set(pitch, { sound, voice: midi && !$('own').checked ? null : sound.strike(pitch, velocity) });
  if (!duet()) return;
  if (state.base === null) state.base = context.currentTime - ago;
  status('');
  const time = timeOf(ago), released = state.mode === 'answering' ? interrupt(time) : [];
  tell(pitch, velocity, time);
  for (const late of released) if (late !== pitch) tell(late, 0, time);
  state.struck++;
  state.touched = performance.now();
  show();
}

export function release(pitch, ago) {
  const before = own.get(pitch);
  if (before && before.voice) before.sound.release(before.voice);
  own.delete(pitch);
  if (!duet() || state.base === null) return;
  state.touched = performance.now();
  if (state.mode === 'listening') tell(pitch, 0, timeOf(ago)); // in its turn the model decides
}

// The player's turn again: what the model had prepared is gone. Returns the player's keys that count as down and have
// been released meanwhile.
function interrupt(time) {
  silence();
  const down = cut(state.current.keys, time);
  Object.assign(state, { mode: 'listening', struck: 0, touched: performance.now() });
  return down.filter(pitch => !own.has(pitch));
}

export function handover() {
  if (state.mode !== 'listening') return;
  if (!state.current.keys.length) {
    status('Play something first.');
    show();
    return;
  }
  const time = now();
  state.mode = 'answering';
  status('');
  state.turn++;
  state.asked = performance.now();
  say({ do: 'answer', time, turn: state.turn });
  state.player = new Player(state.sound, state.current.keys, state.base, time, { wanted: key => key.model });
  show();
}

function takeBack() {
  const time = now();
  say({ do: 'listen', time });
  for (const pitch of interrupt(time)) tell(pitch, 0, time);
  show();
}

// The button, Enter and the left pedal.
export function passTurn() {
  if (state.mode === 'answering') takeBack();
  else handover();
}

export function watchPause(down) {
  if (state.mode !== 'listening' || !$('pause').checked || down || !state.struck) return;
  if (state.current.keys.length < LEAST) return;
  if (performance.now() - state.touched > 1000 * PAUSE) handover();
}
