"""paserve's page with a stand-in for Web MIDI: keyboards and pedals, turns, the user's own instrument, and devices that
come and go. Exits with 77 where Chromium or paserve is missing."""
import unittest

import duet


class Devices(duet.Page):
    def test_duet_on_a_midi_keyboard(self):
        self.connect()
        self.click("#pause")
        self.start_duet()
        self.phrase("(p, v) => made.send(0x90, p, v)", "p => made.send(0x80, p, 0)")
        self.b.run("made.send(0xb0, 67, 127)")  # the left pedal
        self.answered()
        self.b.wait("paserve.state.player.played > 0 && "
                    "paserve.state.current.keys.some(k => k.model && k.velocity && k.time < paserve.now())")
        self.b.run("made.send(0x90, 72, 80)")  # takes the turn back at once
        self.assertEqual(self.b.run("paserve.state.mode"), "listening")
        coming = "paserve.state.current.keys.filter(k => k.model && k.time > paserve.now()).length"
        self.assertEqual(self.b.run(coming), 0)
        self.b.run("made.send(0x90, 72, 0)")
        self.click("#answer")
        self.b.wait("paserve.state.latency.length == 2")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle' && "
                    "paserve.state.current.keys.filter(k => !k.model && k.velocity).length == 17 && "
                    "paserve.state.current.fresh === null")  # the server's record
        self.assertGreater(self.b.run("paserve.state.current.keys.filter(k => k.model).length"), 0)
        self.assertEqual(self.b.run("paserve.state.current.keys.reduce((n, k) => n + (k.velocity ? 1 : -1), 0)"), 0)
        self.assertEqual(self.b.complaints(), [])

    def test_no_web_midi(self):
        """Safari has none; others give none to a page of another machine without HTTPS."""
        self.b.run("navigator.requestMIDIAccess = undefined")
        self.click("#connect")
        self.assertIn("This browser has no Web MIDI: use Chrome", self.status())
        self.b.run("Object.defineProperty(window, 'isSecureContext', { value: false }); 0")
        self.click("#connect")
        self.assertIn("forward the port", self.status())

    def test_pedal_holds(self):
        self.connect()
        self.start_duet()
        self.b.run("made.send(0xb0, 64, 127); made.send(0x90, 60, 80); made.send(0x80, 60, 0); 0")
        self.assertEqual(self.b.run("paserve.state.current.keys.length"), 1)
        self.b.run("made.send(0xb0, 64, 0)")
        self.assertEqual(self.b.run("paserve.state.current.keys.length"), 2)

    def test_turns_pass_by_key_button_and_pedal(self):
        self.connect()
        self.click("#pause")
        self.b.run("document.getElementById('duet').focus()")
        self.start_duet()
        self.b.key("Enter")  # the focus is on Answer, not on End the duet
        self.assertIn("Play something", self.status())
        self.phrase()
        self.b.key("Enter")
        self.answered()
        self.assertEqual(self.b.run("document.getElementById('turn').textContent"), "My turn")
        self.b.key("Enter")
        self.assertEqual(self.b.run("paserve.state.mode"), "listening")
        self.click("#answer")
        self.answered()
        self.b.run("made.send(0xb0, 67, 127)")
        self.assertEqual(self.b.run("paserve.state.mode"), "listening")
        self.assertEqual(self.b.run("paserve.state.current.keys.filter(k => k.time > paserve.now()).length"), 0)
        self.b.run("made.send(0xb0, 67, 127)")
        self.answered()
        self.assertEqual(self.b.complaints(), [])

    def test_held_keys_count_as_held(self):
        self.connect()
        self.click("#pause")
        self.start_duet()
        self.phrase()
        self.b.run("made.send(0x90, 36, 80)")
        self.click("#answer")
        self.answered()
        self.b.wait("paserve.now() > paserve.state.current.keys.find(k => k.model).time + 0.3")
        self.b.run("made.send(0x80, 36, 0)")  # in the model's turn
        self.b.run("made.send(0x90, 90, 80)")
        down = "paserve.state.current.keys.reduce((n, k) => k.pitch == 36 ? n + (k.velocity ? 1 : -1) : n, 0)"
        self.assertEqual(self.b.run(down), 0)
        handed = self.b.run("paserve.state.current.keys.find(k => k.model).time")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle' && paserve.state.current.fresh === null")
        low = self.b.run("paserve.state.current.keys.filter(k => k.pitch == 36)")
        self.assertEqual([k["velocity"] > 0 for k in low][:2], [True, False])
        self.assertGreaterEqual(low[1]["time"], handed - 0.06)

    def test_own_instrument(self):
        self.connect()
        self.b.run("document.getElementById('sound').value = 'out'; "
                   "document.getElementById('sound').dispatchEvent(new Event('change'))")
        self.assertFalse(self.b.run("document.getElementById('own').checked"))
        self.b.run("made.started = 0; made.sent.length = 0")
        # An audio clock that no busy machine holds up; MIDI's is another.
        self.b.run("""Object.defineProperty(paserve.context, 'currentTime',
            { get: () => performance.now() / 1000 + 7 }); 0""")
        self.click("#pause")
        self.start_duet()
        self.phrase("(p, v) => made.send(0x90, p, v)", "p => made.send(0x80, p, 0)")
        strokes = "made.sent.filter(m => m.data[0] == 0x90)"
        self.assertEqual(self.b.run(strokes + ".length"), 0)  # the piano sounds its own keys
        self.click("#answer")
        ahead = f"{strokes}.map((m, i) => [m, i]).filter(([m]) => m.ahead > 1)"
        self.b.wait(f"new Set({ahead}.map(([m]) => m.at).filter(at => at < performance.now())).size > 3")
        self.b.run("made.send(0x90, 100, 80)")  # takes over
        sent = self.b.run(strokes + ".map(m => [m.data[1], m.data[2]])")
        model = "paserve.state.current.keys.filter(k => k.model && k.velocity)"
        played = self.b.run(model + ".map(k => [k.pitch, k.velocity])")
        self.assertEqual(sent[:len(played)], played[:len(sent)])
        # Their times are those of the notes, on the other clock.
        shift = self.b.run(f"{ahead}.map(([m, i]) => [m, {model}[i]]).filter(([, k]) => k)"
                           ".map(([m, k]) => m.at - 1000 * k.time)")
        self.assertGreater(len(shift), 3)
        self.assertLess(max(shift) - min(shift), 10)
        self.assertLess(max(self.b.run(f"{ahead}.map(([m]) => m.ahead)")), 101)
        for pitch, _ in sent:
            last = self.b.run(f"made.sent.filter(m => m.data[1] == {pitch} && m.data[0] < 0xb0)"
                              ".sort((a, b) => a.at - b.at).pop().data[0]")
            self.assertEqual((pitch, last), (pitch, 0x80))
        self.assertEqual(self.b.run("made.started"), 0)  # nothing sounds here
        self.b.run("made.sent.length = 0")
        self.click("#duet")
        self.assertIn([0xB0, 123, 0], self.b.run("made.sent.map(m => m.data)"))
        self.b.run("document.getElementById('own').click(); made.send(0x90, 61, 70)")
        self.assertEqual(self.b.run("made.sent.pop().data"), [0x90, 61, 70])
        self.assertEqual(self.b.complaints(), [])

    def test_instrument_that_goes(self):
        self.connect()
        self.b.run("document.getElementById('sound').value = 'out'; "
                   "document.getElementById('sound').dispatchEvent(new Event('change'))")
        self.choose("long.mid")
        self.b.wait("paserve.state.current && paserve.state.current.keys.length")
        self.click("#play")
        self.b.wait("made.sent.some(m => m.data[0] == 0x90)")
        self.b.run("paserve.state.socket.close()")
        self.b.wait("made.sent.some(m => m.data[1] == 123)")
        self.b.wait("document.body.dataset.ready == 'true' && paserve.state.current")
        self.click("#play")
        self.b.wait("paserve.state.mode == 'playing'")
        self.b.run("made.set(made.output, 'disconnected')")
        self.assertIn("has gone", self.status())
        self.b.run("made.started = 0")
        self.b.wait("made.started > 0")
        self.b.run("made.set(made.output, 'connected')")  # and comes back
        self.assertEqual(self.b.run("document.getElementById('sound').value"), "out")

    def test_instrument_that_goes_in_a_duet(self):
        self.connect()
        self.b.run("document.getElementById('sound').value = 'out'; "
                   "document.getElementById('sound').dispatchEvent(new Event('change'))")
        self.click("#pause")
        self.start_duet()
        self.phrase("(p, v) => made.send(0x90, p, v)", "p => made.send(0x80, p, 0)")
        self.click("#answer")
        self.b.wait("made.sent.filter(m => m.data[0] == 0x90).length > 2")
        self.b.run("made.started = 0; made.set(made.output, 'disconnected')")
        self.assertIn("has gone", self.status())
        self.b.wait("made.started > 2")  # here, and the turn is still the model's
        self.assertEqual(self.b.run("paserve.state.mode"), "answering")
        self.b.run("made.set(made.output, 'connected')")
        self.assertNotIn("has gone", self.status())
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle'")
        self.assertEqual(self.b.complaints(), [])

    def test_sound_that_stops(self):
        """As where the browser loses its audio output: it goes on by itself, or says what to do."""
        self.start_duet()
        self.phrase()
        self.click("#answer")
        self.answered()
        self.b.run("paserve.context.suspend()")
        stood = self.b.run("paserve.now()")
        self.b.wait(f"paserve.now() > {stood} + 0.5")
        self.assertEqual(self.status(), "The model’s turn: play to take over.")
        self.b.run("paserve.context.resume = () => new Promise(() => {})")
        self.b.run("paserve.context.suspend()")
        self.b.wait("document.getElementById('status').textContent.includes('audio output')")
        self.b.run("delete paserve.context.resume; made.started = 0")
        self.phrase()
        self.assertEqual(self.status(), "Your turn: the model listens.")
        self.b.wait("paserve.context.state == 'running' && made.started > 0")
        self.assertEqual(self.b.complaints(), [])

    def test_page_that_closes(self):
        """No note of the instrument sounds on, whoever struck it."""
        self.connect()
        self.b.run("document.getElementById('sound').value = 'out'; "
                   "document.getElementById('sound').dispatchEvent(new Event('change'))")
        self.b.run("document.getElementById('own').click(); made.sent.length = 0")
        self.choose("long.mid")
        self.b.wait("paserve.state.current && paserve.state.current.keys.length")
        self.click("#play")
        self.b.wait("made.sent.filter(m => m.data[0] == 0x90).length > 3")
        self.click("#play")
        self.b.run("made.sent.length = 0; paserve.keys.press(100, 80); dispatchEvent(new Event('pagehide'))")
        self.assertIn([0xB0, 123, 0], self.b.run("made.sent.map(m => m.data)"))
        self.b.run("paserve.keys.lift(100)")
        self.start_duet()
        self.phrase()
        self.click("#answer")
        self.b.wait("made.sent.filter(m => m.data[0] == 0x90 && m.ahead > 1).length > 3")
        self.b.run("made.sent.length = 0; dispatchEvent(new Event('pagehide'))")
        self.assertEqual(self.b.run("paserve.state.mode"), "idle")
        self.assertIn([0xB0, 123, 0], self.b.run("made.sent.map(m => m.data)"))

    def test_keyboard_that_goes(self):
        self.connect()
        self.assertIsNone(self.b.run("made.loop.onmidimessage"))  # it would return what is sent
        self.b.run("made.send(0x90, 60, 80)")
        self.assertEqual(self.b.run("paserve.keys.down"), 1)
        self.b.run("made.set(made.input, 'disconnected')")
        self.assertEqual(self.b.run("paserve.keys.down"), 0)
        self.assertFalse(self.b.run("document.getElementById('connect').hidden"))
        self.assertIn("Stand-in has gone", self.status())
        self.b.run("made.set(made.input, 'connected')")
        self.assertEqual(self.status(), "Connected: Stand-in.")


if __name__ == "__main__":
    unittest.main()
