// What the player presses: the keyboard on the screen, the computer's keys, a MIDI keyboard.
'use strict';

const CODES = [...[...'AWSEDFTGYHUJKOLP'].map(letter => 'Key' + letter), 'Semicolon', 'Quote'];
const isBlack = pitch => [1, 3, 6, 8, 10].includes(pitch % 12);
const LETTERS = [...'AWSEDFTGYHUJKOLP', ';', "'"];
const SUSTAIN = 64, SOFT = 67;
const LOOP = /^Midi Through/; // Linux's: it returns what is sent to it

// Calls strike(pitch, velocity, ago, midi), release(pitch, ago) and pass(), the left pedal; ago: seconds since it
// happened; midi: on a MIDI keyboard.
export class Keys {
  constructor(element, { strike, release, pass }) {
    Object.assign(this, { element, strike, release, pass, base: 60, sustain: false });
    this.held = new Map(); // of the computer's keys: code -> pitch
    this.pointers = new Map(); // on the screen's: id -> pitch
    this.waiting = new Set(); // pitches that the pedal holds
    this.midi = new Set(); // pitches that are down on MIDI keyboards
    this.build();
    new ResizeObserver(() => this.build()).observe(element);
    for (const kind of ['pointerdown', 'pointermove', 'pointerup', 'pointercancel'])
      element.addEventListener(kind, event => this.point(event));
    window.addEventListener('blur', () => this.letGo());
  }

  // As many octaves as have room.
  build() {
    const whites = Math.floor(this.element.clientWidth / (this.element.clientWidth < 600 ? 24 : 32));
    const octaves = Math.max(1, Math.min(7, Math.floor((whites - 1) / 7)));
    if (this.octaves === octaves && this.built === this.base) return;
    this.octaves = octaves;
    this.built = this.base;
    this.low = Math.max(12, Math.min(108 - 12 * octaves, this.base - 12 * Math.floor(octaves / 2)));
    const whole = 7 * octaves + 1;
    let white = 0;
    this.keys = new Map();
    this.element.replaceChildren();
    for (let pitch = this.low; pitch <= this.low + 12 * octaves; pitch++) {
      const key = document.createElement('div');
      key.className = isBlack(pitch) ? 'black' : 'white';
      key.dataset.pitch = pitch;
      if (isBlack(pitch)) {
        key.style.left = 100 * (white - 0.3) / whole + '%';
        key.style.width = 60 / whole + '%';
      } else {
        white++;
        if (pitch % 12 === 0) key.textContent = 'C' + (pitch / 12 - 1);
      }
      const letter = LETTERS[pitch - this.base];
      if (letter) key.dataset.letter = letter;
      this.element.append(key);
      this.keys.set(pitch, key);
    }
  }

  // By octaves.
  shift(up) {
    this.base = Math.max(24, Math.min(96, this.base + 12 * up));
    this.build();
  }

  light(pitch, who, on) {
    const key = this.keys.get(pitch);
    if (key) key.classList.toggle(who, on);
  }

  // ---- all of them

  press(pitch, velocity, ago = 0, midi = false) {
    this.waiting.delete(pitch);
    this.light(pitch, 'you', true);
    this.strike(pitch, velocity, ago, midi);
  }

  lift(pitch, ago = 0) {
    this.light(pitch, 'you', false);
    if (this.sustain) this.waiting.add(pitch);
    else this.release(pitch, ago);
  }

  pedal(down, ago = 0) {
    this.sustain = down;
    if (down) return;
    for (const pitch of this.waiting) this.release(pitch, ago);
    this.waiting.clear();
  }

  letGo() {
    for (const pitch of this.held.values()) this.lift(pitch);
    this.held.clear();
  }

  get down() { return this.held.size + this.pointers.size + this.waiting.size + this.midi.size; }

  // ---- the screen's

  point(event) {
    const before = this.pointers.get(event.pointerId);
    if (event.type === 'pointermove' && before === undefined) return;
    const over = event.type === 'pointerup' || event.type === 'pointercancel';
    if (event.type === 'pointerdown') this.element.setPointerCapture(event.pointerId);
    const key = over ? null : document.elementFromPoint(event.clientX, event.clientY);
    const pitch = key && +key.dataset.pitch;
    event.preventDefault();
    if (pitch && pitch === before) return;
    if (before !== undefined) {
      this.pointers.delete(event.pointerId);
      this.lift(before);
    }
    if (!pitch) return;
    const shape = key.getBoundingClientRect(); // lower is louder
    this.pointers.set(event.pointerId, pitch);
    this.press(pitch, Math.round(45 + 60 * Math.max(0, Math.min(1, (event.clientY - shape.top) / shape.height))));
  }

  // ---- the computer's; true: it was one of these

  keydown(event) {
    const i = CODES.indexOf(event.code);
    if (event.code === 'KeyZ' || event.code === 'KeyX') {
      this.shift(event.code === 'KeyX' ? 1 : -1);
      return true;
    }
    if (i < 0) return false;
    if (event.repeat || this.held.has(event.code)) return true;
    this.held.set(event.code, this.base + i);
    this.press(this.base + i, event.shiftKey ? 100 : 72);
    return true;
  }

  keyup(event) {
    const pitch = this.held.get(event.code);
    if (pitch === undefined) return;
    this.held.delete(event.code);
    this.lift(pitch);
  }

  // ---- MIDI

  // Listens to the keyboards of a MIDIAccess, now and as they come. Returns their names, changed(names) tells new ones.
  attach(access, changed) {
    const listen = () => {
      const inputs = [...access.inputs.values()].filter(port => port.state !== 'disconnected' && !LOOP.test(port.name));
      for (const input of inputs) input.onmidimessage = event => this.message(event);
      return inputs.map(input => input.name);
    };
    access.onstatechange = event => {
      if (event.port && event.port.type === 'input' && event.port.state === 'disconnected') this.unplug();
      changed(listen());
    };
    return listen();
  }

  // What was down when the cable was pulled.
  unplug() {
    this.pedal(false);
    for (const pitch of this.midi) this.lift(pitch);
    this.midi.clear();
  }

  message(event) {
    const [status, a, b] = event.data, kind = status & 0xf0;
    const ago = event.timeStamp ? Math.max(0, Math.min(0.1, (performance.now() - event.timeStamp) / 1000)) : 0;
    if (kind === 0x90 && b) {
      this.midi.add(a);
      this.press(a, b, ago, true);
    } else if (kind === 0x90 || kind === 0x80) {
      this.midi.delete(a);
      this.lift(a, ago);
    } else if (kind === 0xb0 && a === SUSTAIN) {
      this.pedal(b >= 64, ago);
    } else if (kind === 0xb0 && a === SOFT && b >= 64) {
      this.pass();
    }
  }
}
