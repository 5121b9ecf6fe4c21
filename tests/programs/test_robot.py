"""A robot pianist plays a few turns with paserve: all that bench/duet.py checks, and none of the times it measures."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

import serve

ROBOT = pathlib.Path(__file__).parent.parent.parent / "bench/duet.py"


class Robot(unittest.TestCase):
    def play(self, *options):
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, ROBOT, *options, serve.PASERVE, serve.checkpoint(pathlib.Path(folder)), "--device",
                    serve.tiny.DEVICE, "--threads", "1"]
            done = subprocess.run([str(x) for x in line], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        return done.stdout

    def test_one(self):
        self.assertIn("1 robot(s), 3 turns", self.play("--turns", 3, "--listen", 2))

    def test_three_on_two_streams(self):
        self.assertIn("3 robot(s), 6 turns", self.play("--turns", 2, "--listen", 2, "--robots", 3, "--seed", 7))


if __name__ == "__main__":
    unittest.main()
