#!/usr/bin/env python3
"""pagen's features of primer and continuations against bench/quality/features.py, and the ranks of takes."""
import json
import math
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "bench", "quality"))
import features
from tiny import Program, command, pieces, run


class Features(Program):
    def pagen(self, name, *arguments):
        done = subprocess.run(command("pagen", self.run_dir, "--output", self.out(name), "--json", *arguments),
                              capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout), done.stderr

    def assert_features(self, found, expected):
        self.assertEqual(list(found), list(expected))
        for name, value in expected.items():
            if math.isnan(value):
                self.assertIsNone(found[name], name)
            else:
                self.assertAlmostEqual(found[name], value, places=9, msg=name)

    def test_by_another_computation(self):
        rows = [("a.safetensors", ["--number", 2, "--length-seconds", 20]),
                ("b.safetensors", ["--length-seconds", 100]), ("c.safetensors", ["--length-tokens", 3])]
        for name, more in rows:
            with self.subTest(more):
                said, _ = self.pagen(name, "--primer", f"{self.tokens}:0", "--prime-seconds", 9, *more)
                for take, tokens in zip(said["takes"], pieces(self.out(name)), strict=True):
                    notes, steps = features.decode(tokens)
                    self.assertEqual(steps, round(900 + 100 * take["seconds"]))
                    self.assert_features(take["features"], features.features(notes, 900, steps, (0, 900)))
                    rhythm = take["rhythm"]
                    self.assertTrue(rhythm[0] is None or math.isclose(sum(rhythm), 1))
                notes, _ = features.decode(pieces(self.out(name))[0])
                self.assert_features(said["primer"]["features"], features.features(notes, 0, 900))

    def test_without_a_primer(self):
        said, _ = self.pagen("a.safetensors", "--length-seconds", 20)
        notes, steps = features.decode(pieces(self.out("a.safetensors"))[0])
        self.assertNotIn("primer", said)
        self.assert_features(said["takes"][0]["features"], features.features(notes, 0, steps))
        self.assertEqual(said["takes"][0]["distances"]["overlap"], 0)

    def test_ranks(self):
        common = ("--primer", self.primer, "--number", 9, "--length-seconds", 20)
        said, remarks = self.pagen("a.mid", *common)
        again, _ = self.pagen("b.mid", *common)
        for take, other in zip(said["takes"], again["takes"]):
            self.assertEqual({**take, "name": ""}, {**other, "name": ""})
            self.assertAlmostEqual(take["distance"], sum(take["distances"].values()) / len(take["distances"]), places=9)
        by_distance = sorted(said["takes"], key=lambda t: t["distance"])
        self.assertEqual([t["rank"] for t in by_distance], list(range(1, 10)))
        for take in said["takes"]:
            line = f"pagen: {take['name']}: {take['remark']}\n"
            self.assertIn(line, remarks)
            rank = rf"rank {take['rank']} of 9, distance 0\.\d+: .* \(expected .*\)"
            self.assertRegex(line, rank + "; (within|outside) pianists' range")

    def test_remarks(self):
        """One take has no rank, and one of some seconds is not compared with pianists' minutes."""
        said = subprocess.run(command("pagen", self.run_dir, "--output", self.out("a.mid"), "--length-seconds", 16),
                              capture_output=True, text=True, timeout=120, check=True).stderr
        self.assertRegex(said, r"pagen: \S+a\.mid: (within|outside) pianists' range")
        said = subprocess.run(command("pagen", self.run_dir, "--output", self.out("a.mid"), "--length-seconds", 4),
                              capture_output=True, text=True, timeout=120, check=True).stderr
        self.assertEqual(said, "")

    def test_table(self):
        said = run("pagen", self.run_dir, "--primer", self.primer, "--output", self.out("a.mid"), "--length-tokens", 40)
        self.assertRegex(said, r"\nprimer +\d+ ")
        self.assertRegex(said, r"\npianists, 95 % +[\d.]+ ")

    def test_comparison_of_settings(self):
        """bench/quality/quality.py: a table, the same again without pagen, and no take of another setting."""
        folder = self.out("quality")

        def compare(pagen, *settings):
            return subprocess.run([sys.executable, "bench/quality/quality.py", pagen, self.run_dir, self.tokens, folder,
                                   "--primers", "2", "--seconds", "5", "--prime-tokens", "40", *settings],
                                  capture_output=True, text=True, timeout=120, check=False)

        pagen = command("pagen")[0]
        done = compare(pagen, "a=--temperature 1", "b=--greedy")
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [[word.strip() for word in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
        self.assertEqual(lines[0], ["", "pianists", "a", "b", "shuffled"])
        self.assertEqual([line[0].strip("`") for line in lines[2:-3]], list(features.features([], 0, 100)))
        self.assertEqual([line[0] for line in lines[-3:]], ["`distance`", "`outside`", "tokens/s"])
        self.assertEqual(len({*lines[2][1:4]}), 3)
        self.assertEqual(lines[2][1], lines[2][4])  # shuffled notes are as many
        for piece, said in ((path.stem, json.loads(path.read_text())) for path in folder.glob("a/*.json")):
            tokens = pieces(folder / "a" / f"{piece}.safetensors")
            at = sum(t - 255 for t in tokens[0][:40] if 256 <= t < 356)
            primer = features.features(features.decode(tokens[0])[0], 0, at)
            for take, found in zip(said["takes"], tokens, strict=True):
                notes, steps = features.decode(found)
                parts = features.distance(features.features(notes, at, steps, (0, at)), primer, said["pianists"])
                for name, value in parts.items():
                    self.assertAlmostEqual(take["distances"][name], value, places=9, msg=name)
        self.assertEqual(compare("/nowhere/pagen", "a=--temperature 1").returncode, 1)  # another command
        again = compare(pagen, "b=--greedy", "a=--temperature 1")
        self.assertEqual(sorted(done.stdout.split()), sorted(again.stdout.split()))
        self.assertIn("expected", compare(pagen, "a=--temperature 2").stderr)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    unittest.main()
