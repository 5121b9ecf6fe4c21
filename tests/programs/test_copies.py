#!/usr/bin/env python3
"""paeval --copies, run as a program: tables, JSON and errors. Lengths against brute force: test_copies.c."""
import json
import unittest
import tempfile
from pathlib import Path

import programs
from tiny import run, run_plain, save

# Two pieces of a corpus, and two that borrow from the second: as it is, and a third higher with other times.
PHRASE = [60, 275, 188, 64, 265, 192, 67, 265, 195, 72, 300, 200]
CORPUS = [[356, 40, 300, 168, 41, 301, 169], [370] + PHRASE + [256]]
PIECES = [[371, 257] + PHRASE + [299], [370] + [t + 4 if t < 256 else t + 1 for t in PHRASE], [300]]


class Copies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.at = Path(folder.name)
        cls.pieces, cls.corpus = cls.put("pieces", PIECES), cls.put("corpus", CORPUS)

    @classmethod
    def put(cls, name, files, encoding="performance", names=None):
        path, offsets = cls.at / f"{name}.safetensors", [sum(map(len, files[:i])) for i in range(len(files) + 1)]
        save(path, {"offsets": ("I64", [len(offsets)], offsets), "notes": ("I64", [len(files)], [4] * len(files)),
                    "seconds": ("F32", [len(files)], [1.0] * len(files)),
                    "tokens": ("U16", [offsets[-1]], sum(files, []))},
             {"format": "patrain-tokens-1", "encoding": encoding, "vocab": "390", "split": "train",
              "names": names or json.dumps([f"{name} {i}" for i in range(len(files))])})
        return path

    def refused(self, status, says, *arguments):
        self.assertIn(says, run("paeval", *arguments, status=status))

    def test_json(self):
        r = json.loads(run_plain("paeval", self.pieces, "--copies", self.corpus, "--json"))
        copies = r["copies"]
        self.assertEqual({k: [p["length"] for p in v["pieces"]] for k, v in copies.items()},
                         {"tokens": [12, 1, 1], "tokens_transposed": [12, 3, 0], "notes": [4, 1, 0],
                          "notes_transposed": [4, 4, 0]})
        self.assertEqual({k: (v["median"], v["longest"]) for k, v in copies.items()},
                         {"tokens": (1, 12), "tokens_transposed": (3, 12), "notes": (1, 4), "notes_transposed": (4, 4)})
        self.assertEqual(copies["notes"]["pieces"][0],
                         {"length": 4, "seconds": 0.02, "corpus_piece": 1, "corpus_seconds": 0,
                          "corpus_name": "corpus 1"})
        self.assertEqual(copies["tokens"]["pieces"][2],
                         {"length": 1, "seconds": 0, "corpus_piece": 0, "corpus_seconds": 0, "corpus_name": "corpus 0"})
        self.assertEqual((r["pieces"], r["tokens"], r["corpus_pieces"], r["corpus_tokens"]),
                         (3, sum(map(len, PIECES)), 2, sum(map(len, CORPUS))))
        itself = json.loads(run_plain("paeval", self.corpus, "--copies", self.corpus, "--json"))
        self.assertEqual(r["corpus_crc32c"], itself["tokens_crc32c"])

    def test_table(self):
        text = run_plain("paeval", self.pieces, "--copies", self.corpus)
        self.assertRegex(text, r"\nnotes +1 +4  piece 0 at 0\.0 s is piece 1 at 0\.0 s, corpus 1\n")
        self.assertRegex(text, r"\nnotes, transposed +4 +4  piece 0 ")

    def test_several_files(self):
        r = json.loads(run_plain("paeval", self.pieces, "--copies", f"{self.pieces},{self.corpus}", "--json"))
        self.assertEqual([p["length"] for p in r["copies"]["tokens"]["pieces"]], [len(p) for p in PIECES])
        r = json.loads(run_plain("paeval", self.put("late", [CORPUS[1]]), "--copies", f"{self.pieces},{self.corpus}",
                                 "--json"))
        self.assertEqual(r["copies"]["tokens"]["pieces"][0]["corpus_piece"], 4)
        self.assertEqual(r["copies"]["tokens"]["pieces"][0]["corpus_name"], "corpus 1")

    def test_refuses(self):
        self.refused(2, "expected TOKENS.safetensors and nothing else with --copies, found 2 arguments", self.at,
                     self.pieces, "--copies", self.corpus)
        self.refused(2, "expected --copies or --export, found both", self.pieces, "--copies", self.corpus, "--export",
                     self.at / "x.safetensors")
        self.refused(2, "none.safetensors", self.pieces, "--copies", self.at / "none.safetensors")
        self.refused(3, "encoding: expected midi-neural, that of the corpus, found performance", self.pieces,
                     "--copies", self.put("neural", CORPUS, "midi-neural"))
        self.refused(3, "many.safetensors: names: expected at most 1048576 values, found 1048578", self.pieces,
                     "--copies", self.put("many", CORPUS, names=f"[{'0,' * (1 << 20)}0]"))
        self.refused(3, "expected a piece, found none", self.put("empty", []), "--copies", self.corpus)


if __name__ == "__main__":
    unittest.main()
