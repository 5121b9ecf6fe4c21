// What the parts of the page share: the state of the session, the audio context, and the line to the server.
'use strict';

export const $ = id => document.getElementById(id);
export const context = new AudioContext({ latencyHint: 'interactive' });

export const ELSEWHERE = 'This session is open in another window. What it has can be heard here too.';

export const state = {
  mode: 'idle', // waiting for a duet, listening, answering, playing
  takes: new Map(), // number -> take: see addTake
  removed: [], // takes that can be brought back
  current: null, at: 0, // what the stage shows, and where it stands
  base: null, // in a duet: the context's time at the take's second 0; null before the first key
  player: null, turn: 0, asked: null,
  offline: 'Connecting…', notice: null, composing: '', // texts of the status line: see doing(); notice: {text, error}
  struck: 0, touched: 0, // keys of the player in this turn; performance.now() of the latest
  latency: [], trip: [], late: 0, played: 0, thinned: 0,
  follow: false, ended: null, resume: null, // the next take plays; number of a duet; {number, at} that was shown
  files: [], saving: null, // those to be uploaded, the first is under way; the file whose bytes come next
  piano: null, sound: null, samples: null, // the built-in piano; what plays: it, or an Instrument; the piano's samples
  socket: null, elsewhere: false, // another window has the session
};

// Says something until the user does something else; '': nothing more.
export function status(text, error = false) {
  state.notice = text ? { text, error } : null;
}

export function say(message) {
  if (!state.offline && state.socket.readyState === WebSocket.OPEN) state.socket.send(JSON.stringify(message));
}

export const duet = () => state.mode === 'listening' || state.mode === 'answering';
export const growing = () => [...state.takes.values()].some(take => take.growing);

// The second of the current take that the stage shows.
export function now() {
  if (duet()) return state.base === null ? 0 : Math.max(0, context.currentTime - state.base);
  return state.current ? Math.min(state.player ? state.player.time : state.at, state.current.end) : 0;
}

// Whether the line stands inside a take, where a continuation would branch off.
export const inside = take => take === state.current && !duet() && now() > 0.05 && now() < take.end - 0.05;
// Takes that are listed: the others can still be brought back.
export const shown = () => [...state.takes.values()].filter(take => !take.removed);

export const how = () => ({ temperature: +$('temperature').value, density: 2 ** $('density').value });
export const seed = () => Math.floor(Math.random() * 4294967296);

// Names of takes and which are kept: the server knows of neither.
export function remember() {
  const marks = [...state.takes.values()].map(({ number, name, kept }) => [number, { name, kept }]);
  sessionStorage.setItem('marks', JSON.stringify(Object.fromEntries(marks)));
}

export const marks = () => JSON.parse(sessionStorage.getItem('marks') || '{}');
