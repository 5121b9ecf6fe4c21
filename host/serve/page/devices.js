// MIDI devices: the keyboards that are connected, and the instrument that sounds.
'use strict';
import { Instrument } from './instrument.js';
import { $, context, state, status } from './state.js';
import { setSound } from './transport.js';
import { show } from './view.js';

const BUILT_IN = '';
let access = null, pianos = [];

const outputs = () => [...access.outputs.values()].filter(port => port.state !== 'disconnected');

function fill(select, chosen) {
  const option = (text, value) => new Option(text, value, false, value === chosen);
  select.replaceChildren(option('this page’s piano', BUILT_IN), ...outputs().map(port => option(port.name, port.id)));
}

export function choose(id) {
  const port = id && access.outputs.get(id);
  setSound(port ? new Instrument(context, port) : state.piano);
  $('own').checked = !port; // a piano that sounds by itself would sound twice
  localStorage.setItem('sound', id);
}

// A device has come or gone.
function update(names) {
  const wanted = localStorage.getItem('sound') || BUILT_IN, sounding = state.sound.output;
  const there = outputs().some(port => port.id === wanted);
  const lost = sounding && !outputs().some(port => port.id === sounding.id);
  if (lost) {
    setSound(state.piano);
    $('own').checked = true;
    status(`${sounding.name} has gone: this page’s piano sounds.`, true);
  } else if (there && !state.sound.output) {
    choose(wanted);
    status(`${state.sound.output.name} sounds.`);
  } else if (names.join() !== pianos.join()) {
    const gone = pianos.filter(name => !names.includes(name)).join(', ');
    status(gone ? gone + ' has gone: plug it in again, or play on the keys below.'
      : 'Connected: ' + names.join(', ') + '.', !!gone);
  }
  pianos = names;
  fill($('sound'), state.sound.output ? state.sound.output.id : BUILT_IN);
  $('devices').hidden = !names.length && !outputs().length;
  $('piano').textContent = names.length ? 'Piano: ' + names.join(', ') : '';
  $('connect').hidden = names.length > 0;
  show();
}

export async function connect(keys) {
  if (!navigator.requestMIDIAccess) {
    status(isSecureContext ? 'This browser has no Web MIDI: use Chrome, Edge or Firefox.'
      : 'No MIDI: browsers give it to a page at http://127.0.0.1 only; forward the port with ssh.', true);
    show();
    return;
  }
  try {
    access = await navigator.requestMIDIAccess();
    const names = keys.attach(access, update);
    update(names);
    status(names.length ? 'Connected: ' + names.join(', ') + '.'
      : 'No MIDI keyboard found. Plug it in and switch it on: it connects by itself.');
  } catch (error) {
    status('No access to MIDI: ' + error.message + ' Allow it in the site settings, left of the address.', true);
  }
  show();
}

// Where the user has allowed MIDI before, nothing needs pressing.
export async function reconnect(keys) {
  const answer = await navigator.permissions.query({ name: 'midi' }).catch(() => null); // not every browser knows it
  if (answer && answer.state === 'granted') await connect(keys);
}
