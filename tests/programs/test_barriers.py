"""A barrier, or a wait for cp.async, taken out of a kernel makes a test fail: each of these lines in turn is removed,
its file compiled and linked into the emulated test program in place of the right one, and the program run. For a build
by ninja."""
import json
import os
import re
import shlex
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ["PA_BIN"]).resolve().parent

# Program and its arguments, file, function, and the n-th line within it that has the words.
MUTANTS = [
    ("test_cuda_attention fp16", "attention_fwd.cu", "fwd_mma_kernel", "__syncthreads();", 1),
    ("test_cuda_attention fp16", "attention_fwd.cu", "fwd_mma_kernel", "M::wait();", 1),
    ("test_cuda_attention fp16", "attention_bwd.cu", "dkv_mma_kernel", "__syncthreads();", 1),
    ("test_cuda_attention fp16", "attention_bwd.cu", "dq_mma_kernel", "__syncthreads();", 1),
    ("test_cuda_ops", "decode.cu", "join_block", "__syncthreads();", 0),
    ("test_cuda_ops", "decode.cu", "attn_decode_kernel", "__syncthreads();", 0),
    ("test_cuda_ops", "gemv.cu", "gemv_kernel", "__syncthreads();", 0),
    ("test_cuda_ops", "norm.cu", "reduce_kernel", "__syncthreads();", 0),
    ("test_cuda_ops", "optimizer.cu", "adam_kernel", "__syncthreads();", 0),
]


def command_of(file):
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        if Path(entry["file"]) == ROOT / "cuda" / file and "pa_core.dir" in entry["command"]:
            return shlex.split(entry["command"])
    raise AssertionError(f"{BUILD}/compile_commands.json: no command for cuda/{file}")


def without(file, function, words, which):
    lines = (ROOT / "cuda" / file).read_text().split("\n")
    start = next(i for i, line in enumerate(lines) if re.search(rf"\b{function}\(", line))
    end = next(i for i in range(start, len(lines)) if lines[i] == "}")
    found = [i for i in range(start, end) if words in lines[i]]
    assert which < len(found), f"cuda/{file}, {function}: {len(found)} lines with {words}, expected more than {which}"
    lines[found[which]] = ""
    return "\n".join(lines)


class Barriers(unittest.TestCase):
    def test_none_can_be_missed(self):
        with tempfile.TemporaryDirectory() as folder:
            for program, *place in MUTANTS:
                with self.subTest(program=program, place=place):
                    self.check(Path(folder), program.split(), place)

    def check(self, folder, program, place):
        source, made, mutant = folder / place[0], folder / "mutant.o", folder / "mutant"
        source.write_text(without(*place))
        compile_command = [{"-O3": "-O1", "-g": "-g0"}.get(word, word) for word in command_of(place[0])]
        compile_command[compile_command.index("-o") + 1:] = [made, "-c", source]
        subprocess.run(compile_command, cwd=BUILD, check=True)
        commands = subprocess.run(["ninja", "-t", "commands", f"bin/{program[0]}"], cwd=BUILD, check=True,
                                  capture_output=True, text=True)
        link = commands.stdout.strip().split("\n")[-1]
        self.assertIn(f" -o bin/{program[0]} ", link)
        # Before the library, from which the right object is then not taken.
        subprocess.run(link.replace(f" -o bin/{program[0]} ", f" {made} -o {mutant} "), cwd=BUILD, check=True,
                       shell=True)
        # Killed once a test has failed: the others of the program are of no interest.
        with subprocess.Popen([mutant, *program[1:]], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True) as process:
            failed = any("[  FAILED  ]" in line for line in process.stderr)
            process.kill()
        self.assertTrue(failed, f"nothing failed without {place}")


if __name__ == "__main__":
    unittest.main()
