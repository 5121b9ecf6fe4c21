"""paserve's page in a headless Chromium: a file is opened, continued, heard, branched and saved; a duet is played on
the screen's keys and the computer's. Exits with 77 where Chromium or paserve is missing.

The pictures of docs/duet.md: PA_PICTURES=docs/images PA_MODEL=piano PA_BIN=... test_duet.py Duet.test_pictures
"""
import json
import os
import pathlib
import shutil
import unittest

import duet
import serve
import tiny


class Duet(duet.Page):
    def test_open_continue_hear_save(self):
        self.b.run("document.getElementById('number').value = '1'")
        self.choose("mine.mid")
        self.b.wait("paserve.state.takes.size == 1 && paserve.state.current")
        self.assertEqual(self.b.run("document.querySelector('#takes .name').textContent"), "mine.mid")
        self.click("#takes li button[data-act=Continue]")
        self.b.wait("paserve.state.takes.size == 2 && paserve.state.mode == 'playing'")
        self.b.wait("[...paserve.state.takes.values()][1].keys.filter(k => k.model).length > 20")
        self.b.wait("paserve.now() > 3 && paserve.state.player.played > 3")
        self.b.key(" ", "Space")
        self.b.wait("paserve.state.mode == 'idle'")
        self.b.wait("![...paserve.state.takes.values()][1].growing")
        self.assertAlmostEqual(self.b.run("paserve.state.current.end"), 36, delta=0.5)  # all of it
        at = self.b.run("paserve.state.at")
        self.b.key("ArrowLeft")
        self.assertAlmostEqual(self.b.run("paserve.state.at"), max(0, at - 5), delta=0.02)
        level = self.b.run("""paserve.render(paserve.state.current).then(sound =>
            Math.max(...[0, 1, 2].map(s => Math.sqrt(sound.getChannelData(0).slice(s * 44100, (s + 1) * 44100)
                .reduce((a, x) => a + x * x, 0) / 44100))))""")
        self.assertGreater(level, 0.01)  # louder than -40 dBFS
        midi = self.saved(lambda: self.click("#takes li.current button[data-act=MIDI]"))
        (self.at / "out.mid").write_bytes(midi)
        self.assertGreater(len(tiny.events(self.at / "out.mid")), 100)
        self.assertEqual(self.b.complaints(), [])

    def test_space_after_a_click(self):
        """It plays and stops; what the mouse clicked is not pressed again."""
        self.load()
        self.click_by_mouse("[data-act=Keep]")
        self.b.key(" ", "Space")
        self.b.wait("paserve.state.mode == 'playing'")
        self.assertTrue(self.b.run("paserve.state.current.kept"))
        self.b.key(" ", "Space")
        self.b.wait("paserve.state.mode == 'idle'")
        self.click_by_mouse("#duet")
        self.b.wait("paserve.state.mode == 'listening'")
        self.phrase()
        self.click("#pause")
        self.b.run("document.activeElement.blur()")
        self.b.key(" ", "Space")
        self.answered()

    def double_click(self, what):
        x, y = self.middle(what)
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                self.b.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def test_double_clicks(self):
        """They do what a click does, also where the button says something else, or another stands there, by then."""
        self.double_click("#duet")
        self.b.wait("paserve.state.mode == 'listening'")
        self.phrase()
        self.double_click("#answer")
        self.answered()
        self.double_click("#duet")
        self.b.wait("paserve.state.mode == 'idle' && paserve.state.current.fresh === null")
        for count in (2, 3):
            self.choose("mine.mid")
            self.b.wait(f"paserve.state.takes.size == {count} && paserve.state.current.keys.length == 48")
        self.double_click("#play")
        self.b.wait("paserve.state.mode == 'playing'")
        self.double_click("#play")
        self.b.wait("paserve.state.mode == 'idle'")
        self.b.run("document.getElementById('number').value = '2'")
        self.double_click("#takes li [data-act=Continue]")
        self.b.wait("paserve.state.takes.size == 5 && ![...paserve.state.takes.values()].some(t => t.growing)")
        self.assertEqual(self.b.run("[3, 4].map(n => Math.round(paserve.state.takes.get(n).end))"), [36, 36])
        self.double_click("#takes li [data-act=Remove]")
        self.assertEqual(self.b.run("document.querySelectorAll('#takes li').length"), 4)
        self.b.run("document.querySelector('.octaves').style.display = 'flex'; 0")
        self.double_click("#higher")
        self.assertEqual(self.b.run("paserve.keys.base"), 84)  # two octaves are meant
        self.assertEqual(self.b.complaints(), [])

    def test_sound_that_starts_slowly(self):
        """As that of the first press may: presses that come meanwhile begin nothing twice."""
        self.b.run("""window.told = []; paserve.context.resume = () => new Promise(done => setTimeout(done, 300));
            { const { socket } = paserve.state, send = socket.send;
              socket.send = text => { told.push(JSON.parse(text).do); send.call(socket, text); }; }""")
        self.click("#duet")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'listening'")
        self.phrase()
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle' && paserve.state.current.fresh === null")
        self.assertEqual(self.b.run("told.filter(what => what == 'duet').length"), 1)
        self.click("#takes li [data-act=Play]")
        self.click("#takes li [data-act=Play]")
        self.b.wait("paserve.state.mode == 'playing'")
        self.click("#takes li [data-act=Play]")
        self.b.wait("paserve.state.mode == 'idle'")
        self.b.run("made.started = 0; new Promise(done => setTimeout(done, 500))")
        self.assertEqual(self.b.run("[made.started, paserve.state.player]"), [0, None])  # not another one plays on
        self.click("#play")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'listening'")
        self.b.run("new Promise(done => setTimeout(done, 500))")
        self.assertEqual(self.b.run("[paserve.state.mode, paserve.state.player]"), ["listening", None])

    def test_messages_that_are_over(self):
        self.start_duet()
        self.click("#answer")
        self.assertIn("Play something", self.status())
        self.phrase()
        self.assertEqual(self.status(), "Your turn: play.")
        self.answered()
        hear = "paserve.state.socket.onmessage({ data: JSON.stringify({ is: 'thinned', take: 0, number: 2 }) })"
        self.b.run(hear)
        self.assertIn("fewer notes", self.b.run("document.getElementById('thinned').textContent"))
        self.b.wait("document.getElementById('figures').textContent.includes('ahead')")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle'")
        self.assertEqual(self.b.run("document.getElementById('thinned').textContent"), "")
        self.b.wait("document.getElementById('figures').textContent == ''")
        self.choose("broken.mid")
        self.b.wait("document.getElementById('status').classList.contains('error')")
        self.click_by_mouse("#roll")
        self.assertEqual(self.status(), "Ready.")
        self.b.run("paserve.state.socket.onmessage({ data: JSON.stringify({ is: 'error', text: 'a limit' }) })")
        self.assertEqual(self.status(), "A limit.")

    def test_empty_duet(self):
        self.load()
        self.start_duet()
        self.assertEqual(self.b.run("document.querySelectorAll('#takes li').length"), 2)
        self.click("#duet")
        self.b.wait("paserve.state.takes.size == 1")
        self.assertEqual(self.b.run("paserve.state.current.number"), 0)
        self.start_duet()
        self.click("[data-act=Remove]")
        self.b.wait("paserve.state.takes.size == 1")
        self.assertTrue(self.b.run("document.getElementById('undo').hidden"))  # nothing can be brought back
        self.b.run("new Promise(done => setTimeout(done, 9000))")
        self.assertEqual(self.status(), "Ready.")
        self.start_duet()
        self.open()  # nothing was played
        self.b.wait("paserve.state.current && paserve.state.current.keys.length == 48")
        self.assertEqual(self.b.run("paserve.state.takes.size"), 1)
        self.assertEqual(self.b.complaints(), [])

    def test_line_stays_within_the_take(self):
        self.load()
        self.b.run("paserve.state.at = 100")
        self.assertEqual(self.b.run("paserve.now()"), self.b.run("paserve.state.current.end"))

    def test_coming_notes_are_drawn_ahead(self):
        self.start_duet()
        self.phrase()
        self.answered()
        self.b.wait("paserve.state.current.keys.some(k => k.model && k.velocity && k.time > paserve.now() + 1)")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle' && paserve.state.current.fresh === null")  # the server's record
        self.b.run("""Object.assign(paserve.state, { at: 3 });
            Object.assign(paserve.state.current, { end: 6, keys: [[1, 60, 90], [2, 60, 0], [4, 60, 90], [5, 60, 0]].map(
                ([time, pitch, velocity]) => ({ time, pitch, velocity, model: true })) });
            document.getElementById('seek').max = 6; document.getElementById('seek').value = 3;
            document.getElementById('seek').dispatchEvent(new Event('input'))""")
        outlined = """(left => { const roll = document.getElementById('roll'), { width, height } = roll,
            { data } = roll.getContext('2d').getImageData(left * width, 0, 0.4 * width, height);
            for (let i = 0; i < data.length; i += 4)
              if (data[i] == 0xf9 && data[i + 1] == 0xdf && data[i + 2] == 0xca) return true;
            return false; })"""
        self.assertEqual(self.b.run(f"[0.1, 0.55].map({outlined})"), [False, True])

    def test_names_of_files(self):
        self.load()
        self.assertEqual(self.b.run("document.getElementById('whose').textContent"), "file")
        self.b.run("document.getElementById('number').value = '1'")
        self.click("[data-act=Continue]")
        self.b.wait("paserve.state.takes.size == 2")
        self.b.wait("!paserve.state.takes.get(1).growing")
        self.saved(lambda: self.click("[data-take='1'] [data-act=MIDI]"))
        self.assertEqual(self.b.run("saved"), "mine, take 2.mid")
        self.saved(lambda: self.click("[data-take='0'] [data-act=WAV]"))
        self.assertEqual(self.b.run("saved"), "mine.wav")

    def test_why_a_take_cannot_be_continued(self):
        self.load()
        self.b.run("document.getElementById('number').value = '1'")
        self.click("[data-act=Continue]")
        self.b.wait("paserve.state.takes.size == 2 && !paserve.state.takes.get(1).growing")
        self.b.run("paserve.state.takes.get(1).growing = true; "
                   "document.getElementById('seek').dispatchEvent(new Event('input'))")
        button = self.b.run("""(b => [b.textContent, b.disabled])(
            document.querySelector('[data-take="1"] [data-act=Continue]'))""")
        self.assertEqual(button, ["Composing…", True])

    def test_page_of_a_take_that_is_gone(self):
        self.load()
        self.click("#takes li button[data-act=Page]")
        self.assertIn("page of mine.mid", self.status())
        self.assertRegex(self.b.run("document.querySelector('[data-act=Page]').textContent"), r"^Page \d+ s$")
        self.saved(lambda: self.b.run("paserve.state.socket.send(JSON.stringify({ do: 'drop', take: 0 }))"))
        self.assertEqual(self.b.run("saved"), "take 1.html")
        self.assertEqual(self.b.complaints(), [])

    def test_sound_file(self):
        self.choose("mine.mid")
        self.b.wait("paserve.state.current && paserve.state.current.keys.length")
        self.b.run("""window.shown = []; new MutationObserver(() => shown.push(
            document.querySelector('[data-act=WAV]').textContent)).observe(
            document.getElementById('takes'), { subtree: true, childList: true, characterData: true }); 0""")
        sound = self.saved(lambda: self.click("#takes li button[data-act=WAV]"))
        self.b.wait("document.querySelector('[data-act=WAV]').textContent == '↓ WAV'")
        self.assertIn("WAV 0 %", self.b.run("shown"))
        self.assertEqual((sound[:4], sound[8:12]), (b"RIFF", b"WAVE"))
        self.assertGreater(len(sound), 6 * 2 * 44100)
        self.assertGreater(len(set(sound[44:])), 100)

    def drop(self, *names, on="#roll"):
        """Drags files there and drops them."""
        x, y = self.middle(on)
        data = {"items": [], "files": [str(self.at / name) for name in names], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.b.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)
            shown = self.b.run("document.body.classList.contains('drop')")
            self.assertEqual((kind, shown), (kind, kind == "dragOver"))

    def names(self):
        return self.b.run("[...paserve.state.takes.values()].map(t => [t.name, t.keys.length])")

    def test_drop(self):
        for on in ("#roll", "h1", "#temperature"):  # beside the roll too
            self.drop("mine.mid", on=on)
        self.b.wait("paserve.state.takes.size == 3 && [...paserve.state.takes.values()].every(t => t.keys.length)")
        self.assertEqual(self.names(), 3 * [["mine.mid", 48]])
        self.drop("broken.mid", "mine.mid", "long.mid")
        self.b.wait("paserve.state.takes.size == 5 && paserve.state.takes.get(5).keys.length")
        self.assertEqual(self.names()[3:], [["mine.mid", 48], ["long.mid", 960]])
        self.assertIn("broken.mid: ", self.status())
        self.assertEqual(self.b.run("document.title"), "Duet")
        self.b.run("""window.turns = 0; document.addEventListener('dragleave', () => setTimeout(() => {
            turns += !document.body.classList.contains('drop'); })); 0""")
        data = {"items": [], "files": [str(self.at / "mine.mid")], "dragOperationsMask": 1}
        for kind, on in (("dragEnter", "#roll"), ("dragOver", "#roll"), ("dragOver", "#play"), ("dragOver", "h1")):
            x, y = self.middle(on)  # its frame does not flicker
            self.b.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)
        self.assertEqual(self.b.run("[turns, document.body.classList.contains('drop')]"), [0, True])
        self.b.run("document.body.dispatchEvent(new DragEvent('dragleave', { bubbles: true }))")  # out of the window
        self.assertFalse(self.b.run("document.body.classList.contains('drop')"))
        self.b.call("Input.dispatchDragEvent", type="drop", x=x, y=y, data=data)
        self.b.wait("paserve.state.takes.size == 6")
        self.assertEqual(self.b.complaints(), [])

    def test_drop_of_what_is_no_file(self):
        """A folder, a text, a picture, a large file; the next file has its own name."""
        (self.at / "folder.mid").mkdir()
        (self.at / "large.mid").write_bytes(bytes((1 << 20) + 1))
        (self.at / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        for name, why in (("folder.mid", "not folders"), ("large.mid", "1 MiB"), ("picture.png", "not a MIDI file")):
            self.drop(name)
            self.b.wait(f"document.getElementById('status').textContent.startsWith({name + ': '!r})")
            self.assertIn(why, self.status())
        for kind in ("dragEnter", "dragOver", "drop"):
            self.b.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data={
                "items": [{"mimeType": "text/uri-list", "data": "http://127.0.0.1:1/"}], "dragOperationsMask": 1})
        self.drop("mine.mid")
        self.b.wait("paserve.state.current && paserve.state.current.keys.length")
        self.assertEqual(self.names(), [["mine.mid", 48]])
        self.assertEqual(self.b.complaints(), [])

    def test_more_files_than_fit(self):
        """As many as a session holds, more bytes than may wait at once; then a file has its own name."""
        filler = b"".join(b"\x00\xff\x01\x83\x7f" + bytes(511) for _ in range(1000))  # a text event
        piece = serve.piece(6)
        size = int.from_bytes(piece[18:22], "big") + len(filler)
        names = [f"{i}.mid" for i in range(33)]
        for name in names:
            (self.at / name).write_bytes(piece[:18] + size.to_bytes(4, "big") + filler + piece[22:])
        self.drop(*names)
        self.b.wait("document.getElementById('status').textContent.startsWith('32.mid: a session holds at most 32')")
        self.assertEqual(self.names(), [[name, 48] for name in names[:32]])
        self.b.run("paserve.state.socket.send(JSON.stringify({ do: 'drop', take: 0 }))")
        self.b.wait("paserve.state.takes.size == 31")
        self.drop("mine.mid")
        self.b.wait("paserve.state.takes.size == 32 && paserve.state.takes.get(32).keys.length")
        self.assertEqual(self.names()[-1], ["mine.mid", 48])
        self.assertEqual(self.b.complaints(), [])

    def test_sound_of_a_long_take(self):
        """It is made in parts, which nobody hears."""
        self.choose("long.mid")
        self.b.wait("paserve.state.current && paserve.state.current.keys.length == 960")
        apart = self.b.run("""(async () => {
            const { keys } = paserve.state.current, from = key => ({ ...key, time: key.time - 15 });
            const whole = await paserve.render({ keys, end: 60 });
            const some = await paserve.render({ keys: keys.map(from).filter(k => k.time >= 0), end: 25 });
            const a = whole.getChannelData(0).subarray(22 * 44100), b = some.getChannelData(0).subarray(7 * 44100);
            let most = 0, least = 0;
            for (let i = 0; i < 18 * 44100; i++) {
              most = Math.max(most, Math.abs(a[i]));
              least = Math.max(least, Math.abs(a[i] - b[i]));
            }
            return [most, least]; })()""")
        self.assertGreater(apart[0], 0.05)
        self.assertLess(apart[1], 0.001)
        piece = tiny.midi([(i / 8, i / 8 + 0.3, 40 + i % 40, 80) for i in range(2400)], 1)
        (self.at / "five minutes.mid").write_bytes(piece)
        self.choose("five minutes.mid")
        self.b.wait("paserve.state.takes.size == 2 && paserve.state.current.keys.length == 4800")
        sound = self.saved(lambda: self.click("[data-take='1'] [data-act=WAV]"))
        self.assertGreater(len(sound), 300 * 2 * 44100)

    def test_damaged_file(self):
        self.choose("broken.mid")
        self.b.wait("document.getElementById('status').classList.contains('error')")
        self.assertIn("broken.mid: ", self.status())
        self.choose("mine.mid")
        self.b.wait("paserve.state.takes.size == 1")

    def test_computer_keys_and_pause(self):
        self.start_duet()
        for key in "asdfghasdf":
            code = "Key" + key.upper()
            self.b.call("Input.dispatchKeyEvent", type="rawKeyDown", key=key, code=code)
            self.b.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code)
        self.assertEqual(self.b.run("paserve.state.current.keys.filter(k => k.velocity && !k.model).map(k => k.pitch)"),
                         [60, 62, 64, 65, 67, 69, 60, 62, 64, 65])
        self.answered()  # after a pause

    def test_screen_keys_are_louder_below(self):
        self.start_duet()
        self.b.wait("document.documentElement.clientWidth > 1000")
        place = "JSON.stringify(paserve.keys.keys.get(64).getBoundingClientRect())"
        self.b.wait(f"new Promise(done => {{ const was = {place}; setTimeout(() => done({place} === was), 300); }})")
        for part in (0.7, 0.8, 0.95):  # above, black keys are in the way
            r = json.loads(self.b.run(place))
            self.mouse(r["x"] + r["width"] / 2, r["top"] + part * (r["bottom"] - r["top"]))
        keys = self.b.run("paserve.state.current.keys.map(k => [k.pitch, k.velocity])")
        self.assertEqual([p for p, _ in keys], 6 * [64])
        for (_, velocity), expected in zip(keys[::2], (87, 93, 102)):
            self.assertAlmostEqual(velocity, expected, delta=2)
        self.assertEqual([v for _, v in keys[1::2]], [0, 0, 0])

    def test_branch_at_any_point(self):
        self.load()
        left, top, width = self.b.run("(({ left, top, width }) => [left, top, width])"
                                      "(document.getElementById('roll').getBoundingClientRect())")
        self.mouse(left + width * 0.7, top + 50)  # a click moves the line there
        at = self.b.run("paserve.state.at")
        self.assertGreater(at, 1)
        self.mouse(left + width * 0.7, top + 50, (left + width * 0.6, top + 50))  # a drag moves the roll
        self.assertGreater(self.b.run("paserve.state.at"), at + 0.5)
        at = self.b.run("paserve.state.at")
        self.assertIn("Continue from 0:0", self.b.run("document.querySelector('[data-act=Continue]').textContent"))
        self.b.run("document.getElementById('number').value = '1'")
        self.click("[data-act=Continue]")
        self.b.wait("paserve.state.takes.size == 2 && ![...paserve.state.takes.values()][1].growing")
        begins, parent, child = self.b.run("""(() => { const [a, b] = paserve.state.takes.values();
            const before = t => t.keys.filter(k => k.time < b.begins && k.velocity).map(k => [k.time, k.pitch]);
            return [b.begins, before(a), before(b)]; })()""")
        self.assertAlmostEqual(begins, at, delta=0.02)
        self.assertEqual(parent, child)
        self.assertTrue(self.b.run("[...paserve.state.takes.values()][1].keys.some(k => k.model)"))
        self.assertEqual(self.b.complaints(), [])

    def test_several_takes_density_and_page(self):
        self.load()
        self.b.run('''window.told = []; const send = paserve.state.socket.send;
            paserve.state.socket.send = text => { told.push(text); send.call(paserve.state.socket, text); }; 0''')
        self.b.run("document.getElementById('density').value = 1; document.getElementById('temperature').value = 1.2; "
                   "document.getElementById('density').dispatchEvent(new Event('input'))")
        self.assertEqual(self.b.run("document.getElementById('factor').textContent"), "× 2")
        self.b.run("document.getElementById('number').value = '3'")
        self.click("[data-act=Continue]")
        self.b.wait("paserve.state.takes.size == 4")
        self.b.wait("![...paserve.state.takes.values()].some(t => t.growing)")
        said = json.loads(self.b.run("told[0]"))
        self.assertEqual([said[k] for k in ("do", "density", "temperature", "number")], ["continue", 2, 1.2, 3])
        keys = self.b.run("[...paserve.state.takes.values()].slice(1).map(t => JSON.stringify(t.keys))")
        self.assertEqual(len(set(keys)), 3)
        self.assertEqual(self.b.run("[...paserve.state.takes.values()].filter(t => t.parent == 0 && t.begins == "
                                    "[...paserve.state.takes.values()][0].end).length"), 3)
        self.b.run("paserve.state.mode == 'playing' && document.getElementById('play').click()")
        page = self.saved(lambda: self.click("#takes li button[data-act=Page]"))
        self.assertTrue(page.startswith(b"<!doctype html>"), page[:40])
        self.start_duet()
        self.b.run("document.getElementById('density').value = -1; "
                   "document.getElementById('density').dispatchEvent(new Event('change'))")
        self.assertIn({"do": "how", "temperature": 1.2, "density": 0.5}, map(json.loads, self.b.run("told")))
        self.assertEqual(self.b.complaints(), [])

    def test_keep_and_remove(self):
        self.load()
        shutil.copy(self.at / "mine.mid", self.at / "second.mid")
        self.choose("second.mid")
        self.b.wait("paserve.state.takes.size == 2")
        self.b.wait("document.querySelectorAll('#takes li').length == 2")
        first = "document.querySelector('#takes li').dataset.take"
        self.assertEqual(self.b.run(first), "1")
        self.b.run("document.querySelector('#takes li:last-child [data-act=Keep]').focus()")
        self.click("#takes li:last-child [data-act=Keep]")
        self.assertEqual(self.b.run(first), "0")  # the kept ones come first
        self.assertEqual(self.b.run("document.activeElement.dataset.act"), "Keep")
        self.click("#takes li[data-take='1'] [data-act=Remove]")
        self.assertEqual(self.b.run("document.querySelectorAll('#takes li').length"), 1)
        self.click("#takes li[data-take='0'] [data-act=Remove]")
        self.assertEqual(self.b.run("document.querySelectorAll('#takes li').length"), 0)
        for name in ("mine.mid", "second.mid"):  # the latest first
            self.assertEqual(self.b.run("document.getElementById('undo').textContent"), "Bring back " + name)
            self.click("#undo")
        self.assertEqual(self.b.run("document.querySelectorAll('#takes li').length"), 2)
        self.assertTrue(self.b.run("document.getElementById('undo').hidden"))
        self.click("#takes li[data-take='1'] [data-act=Remove]")
        self.b.wait("paserve.state.takes.size == 1")
        self.open()
        self.b.wait("paserve.state.takes.size == 1 && document.querySelector('#takes .name') !== null")
        self.assertEqual(self.b.run("document.querySelector('#takes li.kept .name').textContent"), "mine.mid")
        self.assertEqual(self.b.complaints(), [])

    def test_names_roles_and_contrast(self):
        def check():
            self.assertEqual(self.b.run(duet.browser.CONTRAST), [])
            seen = {}
            for node in self.b.call("Accessibility.getFullAXTree")["nodes"]:
                role = node.get("role", {}).get("value")
                if role in ("button", "slider", "checkbox", "combobox", "image", "img", "heading", "status", "group"):
                    seen[role] = seen.get(role, 0) + 1
                    if role != "status":
                        self.assertTrue(node.get("name", {}).get("value"), node)
            return seen

        seen = check()
        self.assertGreaterEqual(seen["button"], 4)
        self.assertGreaterEqual(seen["slider"], 1)
        self.assertTrue(seen["status"] >= 2 and seen["heading"] >= 3 and seen["group"] >= 1, seen)
        self.connect()
        self.load()
        self.assertEqual(check()["combobox"], 2)
        self.start_duet()
        self.phrase()
        check()
        self.answered()
        check()
        self.click("#duet")
        self.choose("broken.mid")
        self.b.wait("document.getElementById('status').classList.contains('error')")
        check()
        self.b.key("Tab")
        self.assertEqual(self.b.run("getComputedStyle(document.activeElement).outlineStyle"), "solid")

    def test_phone_and_less_motion(self):
        self.addCleanup(self.b.call, "Emulation.clearDeviceMetricsOverride")
        self.addCleanup(self.b.call, "Emulation.setEmulatedMedia", features=[])
        self.b.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        self.b.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
        self.open()
        self.connect()
        self.assertEqual(self.b.run("document.documentElement.scrollWidth"), 390)
        self.assertGreaterEqual(self.b.run("paserve.keys.keys.size"), 25)
        lowest = self.b.run("paserve.keys.low")
        self.click("#higher")
        self.assertEqual(self.b.run("paserve.keys.low"), lowest + 12)
        self.click("#lower")
        self.click("#lower")
        self.assertEqual(self.b.run("paserve.keys.low"), lowest - 12)
        self.assertEqual(self.b.run("document.getElementById('lower').checkVisibility()"), True)
        heights = self.b.run("[...document.querySelectorAll('button')].map(b => b.offsetHeight).filter(h => h)")
        self.assertGreaterEqual(min(heights), 44)
        self.b.run("window.frames_seen = 0; const was = requestAnimationFrame; "
                   "window.requestAnimationFrame = f => { window.frames_seen++; return was(f); }; 0")
        self.choose("mine.mid")
        self.b.wait("paserve.state.current")
        self.click("#play")
        self.b.wait("paserve.now() > 1")
        self.assertLessEqual(self.b.run("window.frames_seen"), 1)

    @unittest.skipUnless("PA_PICTURES" in os.environ, "PA_PICTURES is not set")
    def test_pictures(self):
        """With PA_MODEL=piano."""
        folder = pathlib.Path(os.environ["PA_PICTURES"])
        self.addCleanup(self.b.call, "Emulation.clearDeviceMetricsOverride")
        self.addCleanup(self.b.call, "Emulation.setTouchEmulationEnabled", enabled=False)
        self.b.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
        x, y = self.b.run("(({ x, y }) => [x + 9, y + 9])(document.getElementById('duet').getBoundingClientRect())")
        self.mouse(x, y)  # so that no ring of the focus is seen
        self.b.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
        self.b.wait("paserve.state.mode == 'listening'")
        self.phrase(ms=300)
        self.answered()
        self.b.wait("paserve.now() > 8.5")  # what was played and what answers are on the roll
        self.b.screenshot(folder / "duet.png")
        self.click("#duet")
        self.b.wait("paserve.state.mode == 'idle'")
        self.click("#takes li button[data-act=Continue]")
        self.b.wait("paserve.state.takes.size > 2 && ![...paserve.state.takes.values()].some(t => t.growing)")
        self.b.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        self.b.call("Emulation.setTouchEmulationEnabled", enabled=True)
        self.click("#takes li[data-take='0'] [data-act=Play]")
        self.b.wait("paserve.state.current.number == 0 && paserve.now() > 6.8")
        self.b.screenshot(folder / "duet-phone.png")


if __name__ == "__main__":
    unittest.main()
