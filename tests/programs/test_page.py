"""The page of takes in a headless Chromium: it loads, plays, its cursor moves, keys work, and no error is in its
console. Exits with 77 where Chromium, or what the page needs, is missing.

The pictures of docs/for-pianists.md: PA_PICTURES=docs/images PA_BIN=... test_page.py Page.test_pictures
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import browser

PROGRAM = browser.find()
FOLDER = tempfile.TemporaryDirectory()
PAGE = os.path.join(FOLDER.name, "page.html")


class Page(unittest.TestCase):
    def setUp(self):
        self.b = browser.Browser(PROGRAM)
        self.addCleanup(self.b.close)
        self.b.open(PAGE)
        self.b.wait("takes.every(t => !t.play.disabled)")

    def left(self, take=0):
        return self.b.run(f"takes[{take}].cursor.getBoundingClientRect().x")

    def top(self, take=0):
        return self.b.run(f"takes[{take}].cursor.getBoundingClientRect().y")

    def test_loads_without_complaint_or_request(self):
        self.assertEqual(self.b.run("takes.length"), 2)
        self.assertGreaterEqual(self.b.run("takes[1].audio.duration"), 70)
        self.assertEqual(self.b.complaints(), [])
        self.assertEqual([u for u in self.b.requests() if not u.startswith(("file:", "data:"))], [])

    def test_space_plays_and_the_cursor_moves(self):
        before = self.left()
        self.b.key(" ", "Space")
        self.b.wait("takes[0].audio.currentTime > 1")
        self.assertEqual(self.b.run("takes[0].play.textContent"), "Pause")
        self.assertGreater(self.left(), before + 20)
        self.b.key(" ", "Space")
        self.b.wait("takes[0].audio.paused && takes[0].play.textContent == 'Play'")
        self.assertEqual(self.b.complaints(), [])

    def test_arrows_seek_and_choose(self):
        self.b.key("ArrowDown")
        self.assertEqual(self.b.run("takes.indexOf(current)"), 1)
        first = self.top(1)
        for _ in range(9):
            self.b.key("ArrowRight")
        self.assertAlmostEqual(self.b.run("takes[1].audio.currentTime"), 45, delta=0.1)
        self.assertGreater(self.top(1), first + 50)  # in another row
        self.b.key("ArrowLeft")
        self.assertAlmostEqual(self.b.run("takes[1].audio.currentTime"), 40, delta=0.1)
        self.b.key("ArrowUp")
        self.assertEqual(self.b.run("takes.indexOf(current)"), 0)
        self.assertEqual(self.b.run("document.activeElement == takes[0].play"), True)

    def test_cursor_stays_in_sight(self):
        """In a low window the page scrolls to the row where the keys have moved to."""
        self.b.call("Emulation.setDeviceMetricsOverride", width=1200, height=400, deviceScaleFactor=1, mobile=False)
        self.b.run("current = takes[1]; scrollTo(0, 0)")
        for _ in range(9):
            self.b.key("ArrowRight")
        top, bottom = self.b.run("(r => [r.top, r.bottom])(takes[1].cursor.getBoundingClientRect())")
        self.assertTrue(0 <= top < bottom <= 401, (top, bottom))

    def test_arrows_scroll_the_table(self):
        self.b.run("current = takes[1]; move(current, 30); document.querySelector('.features').focus()")
        self.b.key("ArrowRight")
        self.assertAlmostEqual(self.b.run("current.audio.currentTime"), 30, delta=0.1)

    def test_continuation_is_a_key_away(self):
        self.b.run("document.querySelector('.jump').click()")
        self.b.wait("takes[0].audio.currentTime >= 1.5 && !takes[0].audio.paused")
        # The line of the boundary and the cursor meet.
        self.assertEqual(self.b.run("document.querySelectorAll('.jump').length"), 1)

    def test_space_after_a_click(self):
        """It plays and pauses; what the mouse clicked is not pressed again."""
        self.b.run("document.querySelector('.jump').scrollIntoView()")
        x, y = self.b.run("(r => [r.x + r.width / 2, r.y + r.height / 2])"
                          "(document.querySelector('.jump').getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.b.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.b.wait("!takes[0].audio.paused")
        self.b.run("takes[0].audio.playbackRate = 0.1")
        self.b.key(" ", "Space")
        self.b.wait("takes[0].audio.paused")
        self.assertFalse(self.b.run("takes[0].audio.ended"))

    def test_cursor_stays_on_the_roll(self):
        """The sound fades longer than the notes last."""
        end, duration = self.b.run("[takes[0].roll.dataset.end * 1, takes[0].audio.duration]")
        self.assertGreater(duration, end + 0.5)
        self.b.run(f"move(takes[0], {end})")
        left = self.left()
        self.b.run(f"move(takes[0], {duration})")
        self.assertEqual(self.left(), left)

    def test_one_take_plays_at_a_time(self):
        self.b.run("takes[0].play.click()")
        self.b.wait("!takes[0].audio.paused")
        self.b.run("takes[1].play.click()")
        self.b.wait("takes[0].audio.paused && !takes[1].audio.paused")

    def test_less_motion_where_it_is_asked_for(self):
        self.b.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        self.b.run("window.frames_seen = 0; const was = requestAnimationFrame; "
                   "window.requestAnimationFrame = f => { window.frames_seen++; return was(f); }; 0")
        before = self.left()
        self.b.key(" ", "Space")
        self.b.wait("takes[0].audio.currentTime > 0.6")
        self.assertEqual(self.b.run("window.frames_seen"), 0)
        self.assertGreater(self.left(), before)

    def test_takes_can_be_compared(self):
        """Rows of all rolls have the same seconds and pitches."""
        for what in ("seconds", "high", "step"):
            self.assertEqual(self.b.run(f"takes[0].roll.dataset.{what}"), self.b.run(f"takes[1].roll.dataset.{what}"))
        self.assertEqual(self.b.run("[...document.querySelectorAll('.features a')].map(a => a.hash + ' ' + a.text)"),
                         ["#take0 " + 'first <take> & "more"', "#take1 second take"])

    def test_fits_a_phone(self):
        self.b.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
        time.sleep(0.2)
        self.assertLessEqual(self.b.run("document.documentElement.scrollWidth"), 360)
        self.assertGreaterEqual(self.b.run("takes[0].sheet.clientWidth"), 900)  # the roll's letters stay legible
        at = self.b.run("move(takes[1], 34), takes[1].cursor.getBoundingClientRect().x")  # the end of the first row
        self.assertTrue(0 < at < 360, at)
        small = ("[...document.querySelectorAll('button, input, .player a')]"
                 ".filter(e => e.getBoundingClientRect().height < 43).length")
        self.assertEqual(self.b.run(small), 0)

    def test_text_stands_out(self):
        self.b.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        self.assertEqual(self.b.run(browser.CONTRAST), [])

    def test_everything_has_a_name_and_visible_focus(self):
        nodes = self.b.call("Accessibility.getFullAXTree")["nodes"]
        seen = {}
        for node in nodes:
            role = node.get("role", {}).get("value")
            if role in ("button", "link", "slider", "image", "img", "heading", "DisclosureTriangle"):
                seen[role] = seen.get(role, 0) + 1
                self.assertTrue(node.get("name", {}).get("value"), node)
        self.assertGreaterEqual(seen.get("button", 0), 3)
        self.assertEqual(seen.get("slider"), 2)
        self.b.key("Tab")
        self.assertEqual(self.b.run("getComputedStyle(document.activeElement).outlineStyle"), "solid")
        self.assertEqual(self.b.run("document.documentElement.lang"), "en")

    @unittest.skipUnless("PA_PICTURES" in os.environ, "PA_PICTURES is not set")
    def test_pictures(self):
        page, folder = os.path.join(FOLDER.name, "continued.html"), pathlib.Path(os.environ["PA_PICTURES"])
        prelude = pathlib.Path(__file__).parents[2] / "examples" / "prelude.mid"
        subprocess.run([os.path.join(os.environ["PA_BIN"], "pagen"), "piano", "--primer", prelude, "--prime-seconds", "20",
                        "--length-seconds", "30", "--number", "3", "--output", os.path.join(FOLDER.name, "continued.mid"),
                        "--html", page], check=True, capture_output=True)
        for name, width, height, mobile in (("continued", 1200, 930, False), ("continued-phone", 390, 844, True)):
            self.b.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                        mobile=mobile)
            self.b.open(page)
            self.b.wait("takes.every(t => !t.play.disabled)")
            self.b.call("Emulation.setScrollbarsHidden", hidden=True)
            self.b.run("move(takes[0], takes[0].section.dataset.begins * 1 + 3)")
            if mobile:
                self.b.run("document.querySelector('section').scrollIntoView()")
            self.b.screenshot(folder / f"{name}.png", whole=False)


if __name__ == "__main__":
    if not PROGRAM:
        print("skipped: Chromium not found (Debian's chromium)")
        sys.exit(77)
    made = subprocess.run([os.path.join(os.environ["PA_BIN"], "test_page"), PAGE], check=False)
    if made.returncode:
        sys.exit(made.returncode)
    unittest.main()
