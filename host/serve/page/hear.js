// What the server says, and the connection to it.
'use strict';
import { Piano, load } from './audio.js';
import { begin } from './duet.js';
import { $, ELSEWHERE, context, duet, marks, remember, say, state, status } from './state.js';
import { STEP, cue, fileName, save, unpack } from './takes.js';
import { leave, play, select, setSound, stop } from './transport.js';
import { list, show } from './view.js';

function addTake(m, mark) {
  const number = m.take, kind = m.given ? 'File' : state.takes.has(m.parent) ? 'Take' : 'Duet';
  const name = mark ? mark.name : m.given && state.files.length ? state.files[0].name : `${kind} ${number + 1}`;
  const take = { number, name, parent: m.parent, given: m.given, kept: !!mark && mark.kept };
  Object.assign(take, { keys: [], growing: false, begins: m.begins * STEP, end: m.end * STEP });
  state.takes.set(number, take);
  return take;
}

async function loadPiano(info) {
  const built_in = state.sound === state.piano;
  state.samples = await load(context, info);
  state.piano = new Piano(context, state.samples);
  if (built_in) setSound(state.piano);
}

// Of several takes that a request makes, the first is played as soon as its keys are there.
function follow(take) {
  take.follow = state.follow;
  state.follow = false;
}

// The next binary message is a file of that take, which may have been removed meanwhile.
function expect(m, end, type) {
  const take = state.takes.get(m.take);
  if (take && end === '.html') take.page = 0;
  state.saving = { name: (take ? fileName(take) : `take ${m.take + 1}`) + end, type };
  show();
}

const velocities = keys => keys.filter((_, i) => i % 4 === 2);

const hear = {
  async session(m) {
    stop(); // all is read anew
    const same = sessionStorage.getItem('session') === m.session, known = same ? marks() : {}, { current, at } = state;
    const still = same && current && m.takes.some(take => take.keys && take.take === current.number);
    sessionStorage.setItem('session', m.session);
    $('model').textContent = 'with the model ' + m.model;
    for (const take of state.takes.values()) clearTimeout(take.timer); // a removed one is there again
    state.removed = [];
    state.takes.clear();
    Object.assign(state, { offline: '', elsewhere: false, current: null });
    state.resume = still ? { number: current.number, at } : null;
    for (const take of m.takes) {
      if (!take.keys) say({ do: 'drop', take: take.take }); // a duet in which nothing was played
      else say({ do: 'take', take: addTake(take, known[take.take]).number });
    }
    remember();
    list();
    show();
    await loadPiano(m.piano);
    document.body.dataset.ready = 'true';
  },
  take(m) {
    const take = addTake(m);
    take.growing = !take.given;
    remember();
    if (state.mode === 'waiting') {
      state.mode = 'idle';
      select(take, 0);
      begin();
    } else if (m.parent >= 0) {
      follow(take);
    } else if (!take.given) {
      say({ do: 'stop', time: 0 }); // a duet that is no longer wanted
    }
    if (take.given) nextFile();
    list();
    show();
  },
  keys(m) {
    const take = state.takes.get(m.take);
    if (!take || (duet() && take === state.current && (m.turn !== state.turn || state.mode !== 'answering'))) return;
    const answers = take === state.current && state.mode === 'answering' && velocities(m.keys).some(v => v);
    if (state.asked !== null && answers) {
      state.latency.push(performance.now() - state.asked);
      state.asked = null;
    }
    if (!take.growing || !duet()) take.end = Math.max(take.end, m.keys[m.keys.length - 4] * STEP);
    (take.fresh || take.keys).push(...unpack(m.keys));
    if (duet() && take === state.current) state.player.tick();
    if (take.follow && take.end > take.begins) {
      take.follow = false;
      play(take, cue(take));
    }
  },
  // number: milliseconds that the server needed for the first note.
  first(m) {
    if (state.latency.length) state.trip.push(Math.max(0, state.latency[state.latency.length - 1] - m.number));
  },
  done(m) {
    const take = state.takes.get(m.take);
    if (!take) return;
    take.growing = false;
    take.end = m.number * STEP;
    if (!take.keys.length) {
      say({ do: 'drop', take: take.number });
      return;
    }
    if (duet() && take === state.current) stop();
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
    if (state.resume ? state.resume.number === take.number : !state.current || (take.given && state.mode === 'idle')) {
      select(take, state.resume ? state.resume.at : 0);
      state.resume = null;
    }
    list();
    show();
  },
  dropped(m) {
    const take = state.takes.get(m.take);
    state.takes.delete(m.take);
    if (take) {
      clearTimeout(take.timer);
      state.removed = state.removed.filter(other => other !== take);
      leave(take);
    }
    remember();
    list();
    show();
  },
  midi(m) { expect(m, '.mid', 'audio/midi'); },
  page(m) { expect(m, '.html', 'text/html'); },
  thinned(m) {
    state.thinned = m.number;
    show();
  },
  elsewhere() {
    state.elsewhere = true;
    lose(ELSEWHERE);
  },
  error(m) {
    state.follow = false;
    for (const take of state.takes.values()) take.page = 0;
    if (state.mode === 'waiting') state.mode = 'idle';
    if (m.text.startsWith('this file') && state.files.length) refuse(m.text.replace('this file: ', ''));
    else status(m.text[0].toUpperCase() + m.text.slice(1) + '.', true);
    show();
  },
};

function receive(event) {
  if (typeof event.data !== 'string') {
    save(event.data, state.saving.name, state.saving.type);
    return;
  }
  const m = JSON.parse(event.data);
  if (hear[m.is]) hear[m.is](m); // a newer server may say more
}

// Ends what needs the server; what the page has can still be played.
function lose(why) {
  const was = state.offline;
  state.offline = why;
  if (!was) {
    if (state.mode !== 'idle') stop();
    for (const take of state.takes.values()) {
      const last = take.keys.length ? take.keys[take.keys.length - 1].time : 0;
      Object.assign(take, { growing: false, page: 0, end: Math.max(take.end, last) });
    }
    Object.assign(state, { asked: null, follow: false, ended: null, files: [] });
    document.body.dataset.ready = '';
    list();
  }
  show();
}

async function reason(event) {
  if (event.reason) return 'No connection: the server closed it: ' + event.reason;
  const answer = await fetch('/', { method: 'HEAD', signal: AbortSignal.timeout(5000) }).catch(() => null);
  if (!answer) return 'No connection to the server. Is paserve running?';
  return answer.status === 403
    ? 'No connection: paserve has a new token. Open the address that it printed in the terminal.'
    : 'No connection to the server: connecting…';
}

export function hello() {
  state.socket.send(JSON.stringify({ do: 'hello', session: sessionStorage.getItem('session') || '' }));
}

export function connect() {
  state.socket = new WebSocket('ws://' + location.host + '/socket');
  state.socket.binaryType = 'arraybuffer';
  state.socket.onopen = () => state.elsewhere ? lose(ELSEWHERE) : hello();
  state.socket.onmessage = receive;
  state.socket.onclose = async event => {
    lose(state.offline || 'No connection to the server.');
    lose(await reason(event));
    setTimeout(connect, 2000);
  };
}

// ---- files: one after another, as the server bounds what waits there

function nextFile() {
  state.files.shift();
  if (state.files.length) sendFile();
}

function refuse(why) {
  status(`${state.files[0].name}: ${why}.`, true);
  show();
  nextFile();
}

async function sendFile() {
  const file = state.files[0], bytes = file.size > 1 << 20 ? null : await file.arrayBuffer().catch(() => null);
  if (file !== state.files[0]) return; // the connection has ended meanwhile
  if (bytes) state.socket.send(bytes);
  else refuse(file.size > 1 << 20 ? 'a file may have at most 1 MiB' : 'it cannot be read; drop files, not folders');
}

export function upload(files) {
  if (state.offline || !files.length) return; // the status says so
  if (state.mode !== 'idle') stop();
  state.files.push(...files);
  if (state.files.length === files.length) sendFile();
}
