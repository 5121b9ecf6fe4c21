"""A running paserve for tests, on a tiny checkpoint."""
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile

import tiny

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
PASERVE = tiny.BIN / "paserve"

if not PASERVE.exists():
    print("skipped: paserve is not built")
    sys.exit(77)


def checkpoint(folder):
    """A run directory of the smallest model there is, with windows of 64 tokens."""
    tiny.make(folder)
    return folder / "run"


class Server:
    def __init__(self, model, folder, *arguments, before=None, temporary=None):
        """before: called in the new process; temporary: $TMPDIR, if not a folder of its own."""
        self.folder = pathlib.Path(folder)
        self.scratch = tempfile.TemporaryDirectory()
        line = [str(PASERVE), str(model), "--port", "0", "--folder", str(self.folder), "--device", tiny.DEVICE]
        temporary = self.scratch.name if temporary is None else temporary
        environment = os.environ | {"TMPDIR": temporary, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([*line, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=environment, preexec_fn=before)
        first = self.process.stdout.readline()
        found = re.search(r"^Open http://([\d.]+):(\d+)/(?:\?token=(\w+))? in a browser; Ctrl-C stops and saves\.$",
                          first)
        if not found:
            self.scratch.cleanup()
            raise AssertionError(first + "".join(self.process.communicate()))
        self.address, self.port, self.token = found[1], int(found[2]), found[3]

    def stop(self, how=signal.SIGTERM):
        """Its exit status, what it printed, what it complained of and what it left of its scratch folder."""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=60)
        left = os.listdir(self.scratch.name)
        self.scratch.cleanup()
        return self.process.returncode, out, err, left


def piece(seconds=8, seed=1):
    """A MIDI file."""
    rng = random.Random(seed)
    notes = [(t / 4, t / 4 + 0.2, 48 + rng.randrange(24), rng.randrange(40, 100)) for t in range(4 * seconds)]
    return tiny.midi(notes, seconds)
