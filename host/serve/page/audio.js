// Sound: a piano of samples that the server rendered (plain tones where it has none), and music played on it by the
// audio clock.
'use strict';

const FADE = 0.08; // seconds to a third after a release

export class Piano {
  ahead = 0.2; // seconds from the schedule of a note to its sound

  constructor(context, samples) {
    this.context = context;
    this.samples = samples; // {info, buffers}, or null
    this.out = context.createGain();
    this.out.gain.value = 0.7;
    const limit = context.createDynamicsCompressor();
    limit.threshold.value = -9;
    limit.ratio.value = 8;
    this.out.connect(limit).connect(context.destination);
  }

  source(pitch, velocity) {
    if (!this.samples) {
      const tone = this.context.createOscillator();
      tone.type = 'triangle';
      tone.frequency.value = 440 * 2 ** ((pitch - 69) / 12);
      return [tone, 0.25 * (velocity / 127) ** 1.5, true];
    }
    const { info, buffers } = this.samples, nearest = Math.round((pitch - info.lowest) / info.apart);
    const i = Math.max(0, Math.min(info.pitches - 1, nearest));
    const layer = velocity > (info.layers[0] + info.layers[1]) / 2 ? 1 : 0, sample = this.context.createBufferSource();
    sample.buffer = buffers[layer * info.pitches + i];
    sample.playbackRate.value = 2 ** ((pitch - info.lowest - info.apart * i) / 12);
    return [sample, (velocity / info.layers[layer]) ** 1.3, false];
  }

  // A voice that sounds from `when` on, in the context's time.
  strike(pitch, velocity, when = this.context.currentTime) {
    const [source, level, fades] = this.source(pitch, velocity), gain = this.context.createGain();
    gain.gain.setValueAtTime(level, when);
    if (fades) gain.gain.setTargetAtTime(0, when + 0.01, 0.9);
    source.connect(gain).connect(this.out);
    source.start(when);
    source.stop(when + 6);
    return { source, gain, when, pitch };
  }

  release(voice, when = this.context.currentTime) {
    const fade = voice.pitch > 89 ? 0.4 : FADE; // the highest strings have no dampers
    if (when <= voice.when) when = voice.when + 0.03;
    voice.gain.gain.setTargetAtTime(0, when, fade);
    voice.source.stop(when + 8 * fade);
  }

  silence(voice) {
    const now = this.context.currentTime;
    if (voice.when > now) voice.source.stop(0);
    else this.release(voice, now);
  }

  clear() {} // silence() takes back what is scheduled

  quiet() {}
}

// The server's samples as buffers; null where it has none.
export async function load(context, info) {
  if (!info) return null;
  const answer = await fetch('piano.pcm').catch(() => null);
  if (!answer || !answer.ok) return null;
  const frames = new Int16Array(await answer.arrayBuffer()), buffers = [];
  for (let at = 0; at + info.length <= frames.length; at += info.length) {
    const buffer = context.createBuffer(1, info.length, info.rate), out = buffer.getChannelData(0);
    for (let i = 0; i < info.length; i++) out[i] = frames[at + i] / 32768;
    buffers.push(buffer);
  }
  return { info, buffers };
}

const LEAST_KNOWN = 0.3, AMPLE = 3; // seconds of a growing list where the player starts to wait, and stops

// Plays keys {time, pitch, velocity, model} of a list that may grow: time 0 is the context's time `base`. wanted(key)
// says which; known() up to what second there are all: the player waits for more.
export class Player {
  constructor(sound, keys, base, from, { wanted = () => true, known = () => Infinity } = {}) {
    Object.assign(this, { sound, keys, base, wanted, known, sounding: new Map(), started: [] });
    Object.assign(this, { next: 0, late: 0, played: 0, held: null });
    while (this.next < keys.length && keys[this.next].time < from) this.next++;
    this.timer = setInterval(() => this.tick(), 40);
    this.tick();
  }

  get time() { return this.held !== null ? this.held : this.sound.context.currentTime - this.base; }

  // Waits while it knows too little.
  pace() {
    const left = this.known() - this.time;
    if (this.held === null && left < LEAST_KNOWN) {
      this.held = this.time;
      this.change(this.sound);
      while (this.next && this.keys[this.next - 1].time >= this.held) this.next--;
    } else if (this.held !== null && left > AMPLE) {
      this.base = this.sound.context.currentTime + 0.08 - this.held;
      this.held = null;
    }
  }

  tick() {
    this.pace();
    if (this.held !== null) return;
    const until = this.time + (document.hidden ? 1.5 : this.sound.ahead);
    for (; this.next < this.keys.length && this.keys[this.next].time < until; this.next++) {
      const key = this.keys[this.next];
      if (this.wanted(key)) this.play(key);
    }
    this.started = this.started.filter(v => v.until === undefined || v.until > this.sound.context.currentTime);
  }

  play(key) {
    const now = this.sound.context.currentTime, when = Math.max(now, this.base + key.time);
    const before = this.sounding.get(key.pitch);
    if (before) {
      this.sound.release(before, when);
      before.until = when + 1;
      this.sounding.delete(key.pitch);
    }
    if (!key.velocity) return;
    this.played++;
    if (this.base + key.time < now - 0.005) this.late++;
    const voice = this.sound.strike(key.pitch, key.velocity, when);
    this.sounding.set(key.pitch, voice);
    this.started.push(voice);
  }

  // Plays on there; what sounds ends.
  change(sound) {
    this.sound.clear();
    for (const voice of this.started) this.sound.silence(voice);
    this.started = [];
    this.sounding.clear();
    this.sound = sound;
  }

  stop() {
    clearInterval(this.timer);
    this.change(this.sound);
  }
}

const RATE = 44100, PART = 30, LONGEST = 7; // seconds of sound rendered at once; no voice is heard for longer

// What sounds from one frame to another, and before it what may still be heard there.
async function renderPart(samples, keys, from, until) {
  const before = Math.min(from, LONGEST * RATE), first = (from - before) / RATE, sounding = new Map();
  const context = new OfflineAudioContext(1, until - from + before, RATE), piano = new Piano(context, samples);
  for (const key of keys) {
    const time = key.time - first;
    if (time < 0) continue;
    if (time * RATE > until - from + before) break;
    if (sounding.has(key.pitch)) piano.release(sounding.get(key.pitch), time);
    sounding.delete(key.pitch);
    if (key.velocity) sounding.set(key.pitch, piano.strike(key.pitch, key.velocity, time));
  }
  return (await context.startRendering()).getChannelData(0).subarray(before);
}

// A take as one buffer of sound; tell(part) is called as it grows from 0 to 1. In parts: with all its notes at
// once, a browser computes ten minutes in more than an hour.
export async function render(samples, keys, seconds, tell = () => {}) {
  const length = Math.ceil((seconds + 2) * RATE), sound = new AudioBuffer({ length, sampleRate: RATE });
  for (let from = 0; from < length; from += PART * RATE) {
    tell(from / length);
    sound.copyToChannel(await renderPart(samples, keys, from, Math.min(length, from + PART * RATE)), 0, from);
  }
  return sound;
}

// The bytes of a WAV file of 16 bits.
export function wav(buffer) {
  const samples = buffer.getChannelData(0), bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((c, i) => bytes.setUint8(at + i, c.charCodeAt(0)));
  text(0, 'RIFF');
  bytes.setUint32(4, 36 + 2 * samples.length, true);
  text(8, 'WAVEfmt ');
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true);
  bytes.setUint16(22, 1, true);
  bytes.setUint32(24, buffer.sampleRate, true);
  bytes.setUint32(28, 2 * buffer.sampleRate, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  text(36, 'data');
  bytes.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => bytes.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, x)) * 32767, true));
  return bytes.buffer;
}
