// The page: its buttons, keys and gestures, and the clock that draws it.
'use strict';
import { Piano, render, wav } from './audio.js';
import { choose as chooseSound, connect as connectPiano, reconnect } from './devices.js';
import { passTurn, release, startDuet, strike, watchPause } from './duet.js';
import { connect, hello, upload } from './hear.js';
import { Keys } from './keys.js';
import { $, context, duet, growing, how, inside, now, remember, say, seed, shown, state, status } from './state.js';
import { clock, cue, fileName, save } from './takes.js';
import { halt, leave, play, seek, select, stop, toggle } from './transport.js';
import { figures, lightKeys, list, redraw, roll, setActs, show } from './view.js';

const UNDO = 8; // seconds in which a take comes back
const calm = matchMedia('(prefers-reduced-motion: reduce)');
const keys = new Keys($('keyboard'), { strike, release, pass: passTurn });

// ---- takes

function proceed(take) {
  const at = inside(take) ? now() : take.end;
  halt();
  state.follow = true;
  say({ do: 'continue', take: take.number, at, seconds: 30, number: +$('number').value, ...how(), seed: seed() });
  status('');
  state.composing = `The model continues ${take.name} from ${clock(at)}.`;
  show();
}

function playOrStop(take) {
  if (take === state.current && state.mode === 'playing') stop();
  else play(take, take === state.current ? state.at : cue(take));
}

function keep(take) {
  take.kept = !take.kept;
  remember();
  list();
  show();
}

const saveMidi = take => say({ do: 'midi', take: take.number });

function savePage(take) {
  take.page = performance.now();
  say({ do: 'page', take: take.number });
  show();
}

async function saveSound(take) {
  const tell = part => {
    take.sound = part;
    show();
  };
  tell(0);
  try {
    save(wav(await render(state.samples, take.keys, take.end, tell)), fileName(take) + '.wav', 'audio/wav');
  } catch (error) {
    status(`${take.name}: this browser cannot make its sound: ${error.message}`, true);
  }
  tell(undefined);
}

// The server drops a take only when it can no longer be wanted back; none can be dropped while some grow.
function drop(take) {
  if (growing()) take.timer = setTimeout(() => drop(take), 1000);
  else say({ do: 'drop', take: take.number });
}

function remove(take) {
  take.removed = true;
  take.follow = false;
  state.removed.push(take);
  take.timer = setTimeout(() => {
    state.removed.shift(); // the others were removed later
    show();
    drop(take);
  }, 1000 * UNDO);
  leave(take);
  list();
  show();
  $('undo').focus();
}

function restore() {
  const take = state.removed.pop();
  clearTimeout(take.timer);
  take.removed = false;
  list();
  select(take);
}

setActs({
  main: { Play: ['Play', playOrStop], Continue: ['Continue', proceed], Keep: ['☆ Keep', keep] },
  more: { MIDI: ['↓ MIDI', saveMidi], WAV: ['↓ WAV', saveSound], Page: ['↓ Page', savePage],
    Remove: ['Remove', remove] },
}, select);

// ---- the clock

function frame() {
  if (state.mode !== 'idle') {
    watchPause(keys.down);
    lightKeys(keys);
    if (state.mode === 'playing' && !state.current.growing && state.player.time > state.current.end + 1) stop();
    show();
  }
  if (calm.matches || document.hidden) setTimeout(frame, 250);
  else requestAnimationFrame(frame);
}

// ---- the roll: a click moves the line there, a drag moves the roll

function drag(down) {
  if (duet() || !state.current || down.button) return;
  const from = now(), left = $('roll').getBoundingClientRect().left;
  let moved = false;
  const move = event => {
    moved ||= Math.abs(event.clientX - down.clientX) > 4;
    if (moved) seek(from - roll.seconds(event.clientX - down.clientX));
  };
  const up = () => {
    $('roll').removeEventListener('pointermove', move);
    if (!moved) seek(roll.timeAt(down.clientX - left));
  };
  $('roll').addEventListener('pointermove', move);
  $('roll').addEventListener('pointerup', up, { once: true });
  $('roll').addEventListener('pointercancel', () => { moved = true; up(); }, { once: true });
  $('roll').setPointerCapture(down.pointerId);
}

// ---- what is pressed

function press(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches('select')) return;
  const pressed = event.key === ' ' || event.key === 'Enter', on = event.target.closest('button') && pressed;
  const step = { ArrowLeft: -5, ArrowRight: 5 }[event.key], slides = event.target.matches('input[type=range]');
  const checks = event.key === ' ' && event.target.matches('input[type=checkbox]');
  if (pressed && duet() && !on && !checks) {
    if (!event.repeat) passTurn();
  } else if (event.key === ' ' && !on && !checks) {
    if (!event.repeat) toggle();
  } else if (step && !slides) seek(now() + step);
  else if (!keys.keydown(event)) return;
  event.preventDefault();
}

function change() {
  const { temperature, density } = how(), factor = '× ' + +density.toFixed(2);
  $('degree').textContent = temperature.toFixed(2);
  $('factor').textContent = factor;
  $('density').setAttribute('aria-valuetext', factor);
}

// From the model's next note on.
function apply() {
  if (duet() || growing()) say({ do: 'how', ...how() });
}

// A browser may stop all sound, and with it the clock, where its audio output goes.
const stands = () => context.state !== 'running' && state.mode !== 'idle';
context.addEventListener('statechange', () => {
  if (!stands()) return;
  context.resume().catch(() => {}); // said below
  setTimeout(() => {
    if (!stands()) return;
    status('The sound has stopped. Is the audio output still there? Play a key to go on.', true);
    show();
  }, 1000);
});

$('play').addEventListener('click', toggle);
$('duet').addEventListener('click', () => duet() ? stop() : startDuet());
$('answer').addEventListener('click', passTurn);
$('here').addEventListener('click', hello);
$('undo').addEventListener('click', restore);
$('seek').addEventListener('input', () => seek(+$('seek').value));
for (const id of ['temperature', 'density']) {
  $(id).addEventListener('input', change);
  $(id).addEventListener('change', apply);
}
$('lower').addEventListener('click', () => keys.shift(-1));
$('higher').addEventListener('click', () => keys.shift(1));
$('open').addEventListener('click', () => $('file').click());
$('file').addEventListener('change', () => {
  upload([...$('file').files]);
  $('file').value = '';
});
$('connect').addEventListener('click', () => connectPiano(keys));
$('sound').addEventListener('change', () => chooseSound($('sound').value));
$('roll').addEventListener('pointerdown', drag);
for (const kind of ['dragover', 'dragleave', 'drop'])
  document.addEventListener(kind, event => {
    event.preventDefault();
    document.body.classList.toggle('drop', kind === 'dragover' || (kind === 'dragleave' && !!event.relatedTarget));
    if (kind === 'drop') upload([...event.dataTransfer.files]);
  });
for (const kind of ['pointerdown', 'keydown'])
  document.addEventListener(kind, () => {
    if (!state.notice) return;
    status('');
    show();
  }, { capture: true });
document.addEventListener('keydown', press);
// Of a double click the second half presses nothing: by then the button may mean something else, or be another.
document.addEventListener('click', event => {
  if (event.detail > 1 && event.target.closest('button:not(.octaves *)')) event.stopPropagation();
}, { capture: true });
// A button that the mouse has clicked is not what Space means.
document.addEventListener('click', event => {
  if (event.detail && event.target.closest('button')) document.activeElement.blur();
});
document.addEventListener('keyup', event => keys.keyup(event));
addEventListener('pagehide', stop);
addEventListener('resize', () => {
  list();
  show();
});

window.paserve = { state, context, keys, render: take => render(state.samples, take.keys, take.end), now, figures };
state.sound = state.piano = new Piano(context, null);
connect();
reconnect(keys);
show();
setInterval(redraw, 1000);
setInterval(figures, 500);
requestAnimationFrame(frame);
