// Sound on the user's own instrument: notes are sent by Web MIDI ahead of time, with the times at which they sound.
'use strict';

const CHANNEL = 0, LATEST = 32;
const NOTE_OFF = 0x80 | CHANNEL, NOTE_ON = 0x90 | CHANNEL, CONTROL = 0xb0 | CHANNEL;
const SUSTAIN = 64, ALL_NOTES_OFF = 123;

// What Piano is, on a MIDIOutput.
export class Instrument {
  // Seconds: few, because a browser without MIDIOutput.clear cannot take a message back.
  ahead = 0.1;

  constructor(context, output) {
    this.context = context;
    this.output = output;
    this.offsets = [];
    this.latest = new Float64Array(128); // by pitch, the time of its latest message
    context.addEventListener('statechange', () => { this.offsets = []; });
  }

  // The context's time as one of performance.now(). currentTime moves in steps and is up to one step behind: the least
  // of some offsets is the true one.
  stamp(when) {
    const present = performance.now();
    this.offsets.push(present - 1000 * this.context.currentTime);
    if (this.offsets.length > LATEST) this.offsets.shift();
    return Math.max(present, Math.min(...this.offsets) + 1000 * when);
  }

  // Messages of a pitch stay in order, although stamps of the same moment may differ.
  post(kind, pitch, velocity, when) {
    const at = Math.max(this.stamp(when), this.latest[pitch]);
    this.latest[pitch] = at;
    this.send([kind, pitch, velocity], at);
    return at;
  }

  send(data, at) {
    if (this.output.state !== 'disconnected') this.output.send(data, at);
  }

  strike(pitch, velocity, when = this.context.currentTime) {
    return { pitch, when, at: this.post(NOTE_ON, pitch, velocity, when), over: false };
  }

  release(voice, when = this.context.currentTime) {
    if (voice.over) return;
    voice.over = true;
    this.post(NOTE_OFF, voice.pitch, 0, Math.max(when, voice.when));
  }

  // At once; a note that has yet to sound ends as it begins.
  silence(voice) {
    voice.over = true;
    this.latest[voice.pitch] = Math.max(performance.now(), voice.at);
    this.send([NOTE_OFF, voice.pitch, 0], this.latest[voice.pitch]);
  }

  // Takes back what has not been sent, where the browser can.
  clear() {
    if (this.output.clear && this.output.state !== 'disconnected') this.output.clear();
  }

  // No note sounds on, whoever struck it.
  quiet() {
    this.clear();
    const present = performance.now();
    for (let pitch = 0; pitch < 128; pitch++)
      if (this.latest[pitch] > present) this.send([NOTE_OFF, pitch, 0], this.latest[pitch]);
    this.send([CONTROL, SUSTAIN, 0]);
    this.send([CONTROL, ALL_NOTES_OFF, 0]);
  }
}
