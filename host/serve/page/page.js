// The page: the session with the server, its takes, playing, continuing and the duet.
'use strict';
import { Piano, Player, load, render, wav } from './audio.js';
import { Roll, overview } from './roll.js';
import { Keys } from './keys.js';
import { STEP, card, clock, cut, save, stem, unpack } from './takes.js';

const PAUSE = 1.2; // seconds
const $ = id => document.getElementById(id);
const calm = matchMedia('(prefers-reduced-motion: reduce)');

const state = {
  mode: 'idle', // playing, listening, answering
  takes: new Map(), // number -> {number, name, parent, begins, end, keys, ready, growing}
  current: null, at: 0, // what the stage shows, and where it stands
  player: null, turn: 0, asked: null, latency: [], late: 0, played: 0, least: Infinity,
  files: [], // names of uploads that are under way
};
const context = new AudioContext({ latencyHint: 'interactive' });
const roll = new Roll($('roll'));
let piano = new Piano(context, null), socket;

function status(text, error = false) {
  $('status').textContent = text;
  $('status').classList.toggle('error', error);
}

function say(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

const how = () => ({ temperature: +$('temperature').value, seed: Math.floor(Math.random() * 4294967296) });
const duet = () => state.mode === 'listening' || state.mode === 'answering';

// ---- time

function now() {
  if (duet()) return state.base === null ? 0 : Math.max(0, context.currentTime - state.base);
  return state.player ? Math.min(state.player.time, state.current.end) : state.at;
}

function silence() {
  if (!state.player) return;
  if (state.mode !== 'idle') state.at = now();
  state.late += state.player.late;
  state.played += state.player.played;
  state.player.stop();
  state.player = null;
}

function stop() {
  if (duet()) {
    say({ do: 'stop', time: now() });
    state.ended = state.current.number;
    state.at = now();
  }
  silence();
  state.mode = 'idle';
  keys.element.querySelectorAll('.model').forEach(key => key.classList.remove('model'));
  if (!$('status').classList.contains('error')) status('Ready.');
  show();
}

async function play(take, at) {
  stop();
  await context.resume();
  if (at >= take.end - 0.05 && !take.growing) at = 0;
  select(take, at);
  state.player = new Player(piano, take.keys, context.currentTime + 0.08 - at, at);
  state.mode = 'playing';
  status('Playing ' + take.name + '.');
  show();
}

// The model continues one take at a time: what grows keeps what it has.
function halt() {
  stop();
  if ([...state.takes.values()].some(take => take.growing)) say({ do: 'stop', time: 0 });
}

const toggle = () => state.mode === 'idle' ? state.current && play(state.current, state.at) : stop();

function seek(second) {
  if (!state.current || duet()) return;
  const at = Math.max(0, Math.min(second, state.current.end));
  if (state.mode === 'playing') play(state.current, at);
  else {
    state.at = at;
    show();
  }
}

function select(take, at = take.begins) {
  if (duet()) return;
  if (state.current !== take && state.mode === 'playing') stop();
  state.current = take;
  state.at = at;
  show();
}

// ---- the duet

async function startDuet() {
  halt();
  await context.resume();
  state.mode = 'waiting';
  state.turn = 0;
  say({ do: 'duet', ...how() });
}

function strike(pitch, velocity, ago) {
  context.resume();
  const before = own.get(pitch);
  if (before) piano.release(before);
  own.set(pitch, piano.strike(pitch, velocity));
  if (!duet()) return;
  if (state.base === null) state.base = context.currentTime - ago;
  const time = Math.max(0, context.currentTime - ago - state.base);
  if (state.mode === 'answering') interrupt(time);
  state.current.keys.push({ time, pitch, velocity, model: false });
  state.touched = performance.now();
  say({ do: 'key', time, pitch, velocity });
  show();
}

function release(pitch, ago) {
  const voice = own.get(pitch);
  if (voice) piano.release(voice);
  own.delete(pitch);
  if (!duet() || state.base === null) return;
  const time = Math.max(0, context.currentTime - ago - state.base);
  state.touched = performance.now();
  say({ do: 'key', time, pitch, velocity: 0 });
  if (state.mode === 'listening') state.current.keys.push({ time, pitch, velocity: 0, model: false });
}

// The player plays again: what the model had prepared is gone.
function interrupt(time) {
  silence();
  cut(state.current.keys, time);
  state.mode = 'listening';
  status('Listening.');
}

function handover() {
  if (state.mode !== 'listening' || !state.current.keys.length) return;
  const time = now();
  state.mode = 'answering';
  state.turn++;
  state.asked = performance.now();
  state.answerFrom = time;
  say({ do: 'answer', time, turn: state.turn });
  state.player = new Player(piano, state.current.keys, state.base, time, key => key.model);
  status('The model plays. Play to take over.');
  show();
}

function watchPause() {
  if (state.mode !== 'listening' || !$('pause').checked || keys.down || state.current.keys.length < 8) return;
  if (performance.now() - state.touched > 1000 * PAUSE) handover();
}

const own = new Map(); // pitch -> voice that the player's key started
const keys = new Keys($('keyboard'), { strike, release, handover });

// ---- what the server says

function addTake(m) {
  const parent = state.takes.get(m.parent), number = m.take;
  const kind = m.given ? 'File' : parent ? 'Take' : 'Duet';
  const name = m.given && state.files.shift() || `${kind} ${number + 1}`;
  const take = { number, name, parent: m.parent, given: m.given, keys: [], growing: false };
  Object.assign(take, { begins: m.begins * STEP, end: m.end * STEP });
  state.takes.set(number, take);
  return take;
}

const hear = {
  async session(m) {
    sessionStorage.setItem('session', m.session);
    $('model').textContent = 'with the model ' + m.model;
    state.takes.clear();
    state.current = null;
    for (const take of m.takes) say({ do: 'take', take: addTake(take).number });
    list();
    status('Ready. Start a duet, or drop a MIDI file.');
    const samples = await load(context, m.piano);
    state.samples = samples;
    piano = new Piano(context, samples);
    document.body.dataset.ready = 'true';
  },
  take(m) {
    const take = addTake(m);
    take.growing = !take.given;
    if (state.mode === 'waiting') {
      state.mode = 'idle';
      select(take, 0);
      Object.assign(state, { mode: 'listening', base: null, touched: performance.now() });
      status('Your turn: play.');
    } else if (m.parent >= 0) {
      take.follow = true; // as soon as its keys are there
    } else if (!take.given) {
      say({ do: 'stop', time: 0 }); // a duet that is no longer wanted
    }
    list();
    show();
  },
  keys(m) {
    const take = state.takes.get(m.take);
    if (!take || (duet() && take === state.current && (m.turn !== state.turn || state.mode !== 'answering'))) return;
    if (state.asked !== null && take === state.current && state.mode === 'answering' && m.keys[2]) {
      state.latency.push(performance.now() - state.asked);
      state.asked = null;
    }
    if (!take.growing || !duet()) take.end = Math.max(take.end, m.keys[m.keys.length - 4] * STEP);
    (take.fresh || take.keys).push(...unpack(m.keys));
    if (duet() && take === state.current) state.player && state.player.tick();
    if (take.follow && take.end > take.begins) {
      take.follow = false;
      play(take, Math.max(0, take.begins - 4));
    }
  },
  first(m) { state.server = m.number; },
  listening() {},
  done(m) {
    const take = state.takes.get(m.take);
    if (!take) return;
    take.growing = false;
    take.end = m.number * STEP;
    if (!take.keys.length && m.number === 0) return say({ do: 'drop', take: take.number });
    if (duet() && take === state.current) {
      silence();
      state.mode = 'idle';
    }
    if (state.ended === take.number) { // the server's record of a duet
      state.ended = null;
      take.fresh = [];
      say({ do: 'take', take: take.number });
    }
    list();
    show();
  },
  loaded(m) {
    const take = state.takes.get(m.take);
    if (!take) return;
    take.end = m.number * STEP;
    take.growing = false;
    if (take.fresh) take.keys = take.fresh;
    take.fresh = null;
    if (!state.current || (take.given && state.mode === 'idle')) select(take, 0);
    list();
    show();
  },
  dropped(m) {
    const take = state.takes.get(m.take);
    state.takes.delete(m.take);
    if (state.current === take) {
      state.current = null;
      state.at = 0;
      const next = [...state.takes.values()].pop();
      if (next) select(next);
    }
    list();
    show();
  },
  midi(m) { state.saving = state.takes.get(m.take); },
  error(m) {
    state.files = [];
    if (state.mode === 'waiting') state.mode = 'idle';
    status(m.text, true);
    show();
  },
};

function connect() {
  socket = new WebSocket('ws://' + location.host + '/socket');
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => say({ do: 'hello', session: sessionStorage.getItem('session') || '' });
  socket.onmessage = event => {
    if (typeof event.data !== 'string') return save(event.data, stem(state.saving) + '.mid', 'audio/midi');
    const m = JSON.parse(event.data);
    hear[m.is](m);
  };
  socket.onclose = event => {
    if (state.mode !== 'idle') stop();
    status(event.reason ? 'The server closed: ' + event.reason
      : 'No connection to the server. Is paserve running?', true);
    document.body.dataset.ready = '';
    show();
    setTimeout(connect, 2000);
  };
}

async function upload(files) {
  for (const file of files) {
    if (file.size > 1 << 20) {
      status(file.name + ': a file may have 1 MiB', true);
      continue;
    }
    if (state.mode !== 'idle') stop();
    state.files.push(file.name);
    socket.send(await file.arrayBuffer());
  }
}

// ---- takes

function proceed(take) {
  const at = take === state.current && state.at > 0 && state.at < take.end ? now() : take.end;
  halt();
  say({ do: 'continue', take: take.number, at, seconds: 30, ...how() });
  status('The model continues ' + take.name + ' from ' + clock(at) + '.');
}

async function saveSound(take) {
  status('Rendering ' + take.name + '…');
  const buffer = await render(state.samples, take.keys, take.end);
  save(wav(buffer), stem(take) + '.wav', 'audio/wav');
  status('Ready.');
}

function remove(take) {
  if (take === state.current) stop();
  if (take.growing) halt();
  say({ do: 'drop', take: take.number });
}

const acts = {
  Play: take => play(take, Math.max(0, take.begins - 4)),
  Continue: proceed,
  MIDI: take => say({ do: 'midi', take: take.number }),
  WAV: saveSound,
  Remove: remove,
};

function list() {
  $('none').hidden = state.takes.size > 0;
  const cards = [...state.takes.values()].reverse().map(take => card(take, state.takes.get(take.parent), acts, select));
  $('takes').replaceChildren(...cards);
  for (const item of $('takes').children) {
    const take = state.takes.get(+item.dataset.take);
    picture(item, take);
  }
}

function picture(item, take) {
  const end = duet() && take === state.current ? now() : take.end;
  overview(item.querySelector('canvas'), take.keys.filter(key => key.time <= end), Math.max(1, end), take.begins);
}

// The one that grows; the others stay.
function redraw() {
  const take = state.current;
  const item = take && take.growing && document.querySelector(`#takes li[data-take="${take.number}"]`);
  if (item) picture(item, take);
}

// ---- what is seen

function figures() {
  const sorted = [...state.latency].sort((a, b) => a - b), n = sorted.length, parts = [];
  const late = state.late + (state.player ? state.player.late : 0);
  if (n) parts.push(`Answer: first note after ${sorted[n >> 1].toFixed(0)} ms (median of ${n}).`);
  if (state.mode === 'answering') {
    const keysNow = state.current.keys, ahead = keysNow.length ? keysNow[keysNow.length - 1].time - now() : 0;
    parts.push(`The model is ${Math.max(0, ahead).toFixed(1)} s ahead.`);
  }
  if (n || late) parts.push(`Late notes: ${late}.`);
  $('figures').textContent = parts.join(' ');
}

function show() {
  const take = state.current, end = take ? Math.max(take.end, duet() ? now() : 0) : 0, at = now();
  $('play').textContent = state.mode === 'idle' || state.mode === 'waiting' ? 'Play' : 'Stop';
  $('play').disabled = state.mode === 'idle' && (!take || !take.keys.length);
  $('duet').textContent = duet() ? 'End the duet' : 'Start a duet';
  $('answer').disabled = state.mode !== 'listening';
  $('answer').className = 'turn';
  $('seek').max = end;
  $('seek').value = at;
  $('seek').disabled = !take || duet();
  $('seek').setAttribute('aria-valuetext', clock(at) + ' of ' + clock(end));
  $('time').textContent = clock(at) + ' / ' + clock(end);
  for (const item of $('takes').children) item.className = take && +item.dataset.take === take.number ? 'current' : '';
  roll.draw(take ? take.keys : [], at, take && take.parent >= 0 ? take.begins : null);
}

function lightKeys() {
  const lit = new Set(), at = now();
  if (state.mode === 'playing' || state.mode === 'answering') {
    for (const [pitch, voice] of state.player ? state.player.sounding : [])
      if (voice.when <= context.currentTime) lit.add(pitch);
  }
  for (const [pitch, key] of keys.keys) key.classList.toggle('model', lit.has(pitch) && at >= 0);
}

function frame() {
  if (state.mode !== 'idle') {
    watchPause();
    lightKeys();
    figures();
    if (state.mode === 'playing' && !state.current.growing && state.player.time > state.current.end + 1) stop();
    show();
  }
  if (calm.matches || document.hidden) setTimeout(frame, 250);
  else requestAnimationFrame(frame);
}

// ---- what is done

$('play').addEventListener('click', toggle);
$('duet').addEventListener('click', () => duet() ? stop() : startDuet());
$('answer').addEventListener('click', handover);
$('seek').addEventListener('input', () => seek(+$('seek').value));
$('temperature').addEventListener('input', () => { $('degree').textContent = (+$('temperature').value).toFixed(2); });
$('open').addEventListener('click', () => $('file').click());
$('file').addEventListener('change', () => { upload([...$('file').files]); $('file').value = ''; });
$('midi-in').addEventListener('click', async () => {
  try {
    const names = await keys.connect();
    status(names.length ? 'Connected: ' + names.join(', ') + '.'
      : 'No MIDI keyboard found; it may be connected at any time.');
  } catch (error) {
    status('This browser gives no access to MIDI: ' + error.message, true);
  }
});
for (const kind of ['dragover', 'dragleave', 'drop'])
  document.addEventListener(kind, event => {
    event.preventDefault();
    document.body.classList.toggle('drop', kind === 'dragover');
    if (kind === 'drop') upload([...event.dataTransfer.files]);
  });
document.addEventListener('keydown', event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const on = event.target.closest('button, a') && (event.key === ' ' || event.key === 'Enter');
  const step = { ArrowLeft: -5, ArrowRight: 5 }[event.key], slides = event.target.matches('input[type=range]');
  if (event.key === 'Enter' && state.mode === 'listening' && !on) handover();
  else if (event.key === ' ' && !on && !event.target.matches('input[type=checkbox]')) toggle();
  else if (step && !slides) seek(now() + step);
  else if (!keys.keydown(event)) return;
  event.preventDefault();
});
document.addEventListener('keyup', event => keys.keyup(event));
addEventListener('resize', () => { list(); show(); });

window.paserve = { state, context, keys, render: take => render(state.samples, take.keys, take.end), now };
connect();
show();
setInterval(redraw, 1000);
requestAnimationFrame(frame);
