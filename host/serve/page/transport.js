// Playing takes: play, stop, move.
'use strict';
import { Player } from './audio.js';
import { $, context, duet, growing, now, say, shown, state, status } from './state.js';
import { show } from './view.js';

export function silence() {
  if (!state.player) return;
  if (state.mode !== 'idle') state.at = now();
  state.late += state.player.late;
  state.played += state.player.played;
  state.player.stop();
  state.player = null;
}

let presses = 0;

// Once sound can start; false: something else was asked for meanwhile.
export async function ready() {
  const press = ++presses;
  await context.resume();
  return press === presses;
}

export function stop() {
  presses++;
  if (duet()) {
    say({ do: 'stop', time: now() });
    state.ended = state.current.number;
    state.at = now();
  }
  silence();
  if (state.sound) state.sound.quiet();
  state.mode = 'idle';
  for (const key of document.querySelectorAll('#keyboard .model')) key.classList.remove('model');
  if (document.activeElement === $('answer')) $('duet').focus();
  show();
}

export async function play(take, at) {
  stop();
  if (!await ready()) return;
  if (at >= take.end - 0.05 && !take.growing) at = 0;
  select(take, at);
  const known = () => take.growing ? take.end : Infinity;
  state.player = new Player(state.sound, take.keys, context.currentTime + 0.08 - at, at, { known });
  state.mode = 'playing';
  status('');
  show();
}

// Ends what plays and what grows; a take that grows keeps what it has.
export function halt() {
  stop();
  if (growing()) say({ do: 'stop', time: 0 });
}

export const toggle = () => state.mode === 'idle' ? state.current && play(state.current, state.at) : stop();

export function seek(second) {
  if (!state.current || duet()) return;
  const at = Math.max(0, Math.min(second, state.current.end));
  if (state.mode === 'playing') {
    play(state.current, at);
  } else {
    state.at = at;
    show();
  }
}

export function select(take, at = take.begins) {
  if (duet()) return;
  if (state.current !== take && state.mode === 'playing') stop();
  state.current = take;
  state.at = at;
  show();
}

// The stage shows another take, if it shows that one.
export function leave(take) {
  if (take !== state.current) return;
  stop();
  state.current = null;
  const left = shown().pop();
  if (left) select(left);
}

// From now on all sounds there.
export function setSound(sound) {
  if (state.player) state.player.change(sound);
  state.sound.quiet();
  state.sound = sound;
}
