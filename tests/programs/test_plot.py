#!/usr/bin/env python3
"""scripts/plot.py: curves of synthetic runs, and what it refuses."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

PLOT = pathlib.Path(__file__).resolve().parents[2] / "scripts/plot.py"
SVG = "{http://www.w3.org/2000/svg}"


class Plot(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.at = pathlib.Path(folder.name)

    def run_of(self, name, losses, evals=()):
        (self.at / name).mkdir()
        rows = [{"step": step, "epoch": step / 10, "loss": loss, "seconds": 36} for step, loss in enumerate(losses, 1)]
        rows += [{"step": step, "eval_loss": loss} for step, loss in evals]
        (self.at / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def plot(self, *words):
        return subprocess.run([sys.executable, PLOT, *words], cwd=self.at, capture_output=True, text=True)

    def test_curves(self):
        self.run_of("first", [4 - step / 100 for step in range(300)] + [None], [(0, 6.0), (150, 2.5), (300, 1.1)])
        self.run_of("<second>", [3] * 50)
        done = self.plot("first", "<second>", "--x", "hours", "--output", "out.svg")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        root = ElementTree.parse(self.at / "out.svg").getroot()
        names = [text.text for text in root.iter(SVG + "text")]
        self.assertEqual(names[-2:], ["first", "<second>"])
        self.assertIn("hours", names)
        first, _, second, _ = [path for path in root.iter(SVG + "path") if path.get("stroke-width")]
        points = [tuple(map(float, point.split())) for point in re.split("[ML]", first.get("d"))[1:]]
        self.assertTrue(all(a[0] < b[0] for a, b in zip(points, points[1:])))
        self.assertTrue(all(a[1] < b[1] for a, b in zip(points, points[1:])), "a falling loss is drawn downwards")
        self.assertNotEqual(first.get("stroke-dasharray"), second.get("stroke-dasharray"))
        xs = [float(point.split()[0]) for point in re.split("[ML]", second.get("d"))[1:]]
        self.assertAlmostEqual((xs[-1] - 60) / (points[-1][0] - 60), 50 / 300, delta=0.02)
        dots = list(root.iter(SVG + "circle"))
        self.assertEqual(len(dots), 2, "the evaluation before training is above the picture")
        self.assertAlmostEqual(float(dots[0].get("cx")), (points[0][0] + points[-1][0]) / 2, delta=3)

    def test_steep_beginning(self):
        """It leaves the picture at the top, and is not drawn as a level stretch there."""
        self.run_of("steep", [30 - 3 * step for step in range(8)] + [4 - step / 200 for step in range(300)])
        self.assertEqual(self.plot("steep").returncode, 0)
        root = ElementTree.parse(self.at / "loss.svg").getroot()
        line = next(path for path in root.iter(SVG + "path") if path.get("stroke-width"))
        ys = [float(point.split()[1]) for point in re.split("[ML]", line.get("d"))[1:]]
        self.assertTrue(all(a < b for a, b in zip(ys, ys[1:])))
        self.assertLess(ys[0], 0)
        self.assertEqual(line.get("clip-path"), "url(#plot)")

    def test_refused(self):
        self.run_of("empty", [])
        (self.at / "broken").write_text('{"step":1,"epoch":0,"loss":3,"seconds":1}\n{"st')
        for words, error in ((["none"], "cannot open none: No such file"), (["empty"], "has no step with a loss"),
                             (["broken"], "broken: line 2 is not JSON")):
            with self.subTest(words=words):
                done = self.plot(*words)
                self.assertEqual(done.returncode, 1)
                self.assertIn(error, done.stderr)
        self.run_of("good", [2, 1])
        self.assertIn("cannot open no/x.svg", self.plot("good", "--output", "no/x.svg").stderr)
        self.assertEqual(self.plot("good").returncode, 0)
        self.assertTrue((self.at / "loss.svg").exists())


if __name__ == "__main__":
    unittest.main()
