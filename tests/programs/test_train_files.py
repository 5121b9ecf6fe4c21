#!/usr/bin/env python3
"""patrain's messages and exit statuses, and what it leaves in a run directory: checkpoints, nothing on a dry run. Full
disks, signals and lost numbers are in test_train_lost.py, logs in test_train_logs.py; that runs resume to the bit is in
test_train.py."""

import re
import shutil
import signal
import socket
import subprocess
import unittest

import programs
from test_train import SLOW, Run, compute


def tree(folder):
    """Every path below a folder, with the bytes of files and the targets of links."""
    return {p: p.readlink() if p.is_symlink() else p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


class Refused(Run):
    def refuse(self, status, message, *arguments, run="refused", **options):
        done = programs.train(self.folder, run, *arguments, **options)
        self.assertEqual(done.stderr.splitlines()[-1], "patrain: " + message.replace("FOLDER", str(self.folder)))
        self.assertEqual(done.returncode, status)
        self.assertEqual(done.stdout, "")

    def refuse_line(self, status, message, *arguments):
        """The whole command line, not one of tiny.ini."""
        done = programs.subprocess.run([programs.PATRAIN, *arguments], capture_output=True, text=True,
                                       env=programs.environment())
        self.assertEqual((done.returncode, done.stderr),
                         (status, f"patrain: {message}\n".replace("FOLDER", str(self.folder))))

    def test_usage(self):
        f = str(self.folder)
        self.refuse_line(2, "expected CONFIG.ini or --init, found neither")
        self.refuse_line(2, "expected CONFIG.ini or --init before settings, found train.steps=1", "train.steps=1")
        self.refuse_line(2, "cannot open FOLDER/none.ini: No such file or directory", f + "/none.ini")
        self.refuse_line(2, "unknown option --frehs (did you mean --fresh?)", f + "/tiny.ini", "--frehs")
        self.refuse_line(2, "--device: expected auto|cpu|cuda, found 'tpu'", f + "/tiny.ini", "--device", "tpu")
        (self.folder / "bad.ini").write_text("[model]\ndim = 8\nheads = many\n")
        self.refuse_line(2, 'FOLDER/bad.ini:3: model.heads: expected a whole number from 1 to 1024, found "many"',
                         f + "/bad.ini")
        (self.folder / "unknown.ini").write_text("[train]\nstep = 8\n")
        self.refuse_line(2, "FOLDER/unknown.ini:2: unknown key 'train.step' (did you mean 'train.steps'?)",
                         f + "/unknown.ini")

    def test_settings(self):
        self.refuse(2, "unknown key 'train.stepz' (did you mean 'train.steps'?)", "train.stepz=3")
        self.refuse(2, 'optimizer.lr: expected auto or a number above 0 and at most 1, found "1e30"',
                    "optimizer.lr=1e30")
        self.refuse(2, "model.prefix: expected 0 to 31, found 32", "model.prefix=32")
        self.refuse(2, "train.micro_batch: expected at most train.global_batch, 4, found 5", "train.micro_batch=5")
        self.refuse(2, "precision: fp16 is for GPUs; on the CPU expected auto, fp32 or bf16", "--precision", "fp16")
        self.assertFalse((self.folder / "refused").exists())

    def test_cuda_where_there_is_none(self):
        done = programs.train(self.folder, "refused", "--device", "cuda", "train.steps=1", "log.eval_every=0")
        if done.returncode:
            self.assertEqual(done.returncode, 2)
            self.assertIn("patrain: --device cuda: ", done.stderr)
        # the plan needs neither GPU nor CUDA
        said = self.train("refused", "--device", "cuda", "--dry-run", "--precision", "bf16").stderr
        self.assertRegex(said, r"memory plan, bf16 on a? ?.*:\n  parameters +\d+\.\d MB\n(.*\n)+  all +\d+\.\d MB\n")

    def test_token_files(self):
        def data(name):
            return f"data.train={self.folder}/{name}"

        self.refuse(2, "data.train: cannot open FOLDER/none: No such file or directory", data("none"))
        whole = (self.folder / "train.safetensors").read_bytes()
        (self.folder / "torn.safetensors").write_bytes(whole[:-100])
        done = programs.train(self.folder, "refused", data("torn.safetensors"))
        self.assertEqual(done.returncode, 3)
        self.assertRegex(done.stderr, r"torn\.safetensors: tensor \"tokens\": expected data_offsets in order "
                                      r"within 0 to \d+, found ")
        (self.folder / "flipped.safetensors").write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        done = programs.train(self.folder, "refused", data("flipped.safetensors"))
        self.assertEqual(done.returncode, 3)
        self.assertRegex(done.stderr,
                         r"flipped\.safetensors: expected data with CRC-32C \w{8}, found \w{8}: the file is damaged\n")
        programs.write_tokens(self.folder / "neural.safetensors", [50], encoding="midi-neural")
        self.refuse(2,
                    "FOLDER/validation.safetensors: expected the encoding of FOLDER/neural.safetensors, midi-neural, "
                    "found performance", data("neural.safetensors"))
        programs.write_tokens(self.folder / "empty.safetensors", [])
        self.refuse(3, "FOLDER/empty.safetensors: expected at least one piece, found none", data("empty.safetensors"))
        programs.write_tokens(self.folder / "short.safetensors", [8, 3])
        self.refuse(3, "FOLDER/short.safetensors: expected pieces longer than model.prefix, 8 tokens, found none",
                    data("short.safetensors"))
        done = self.train("no-validation", "train.steps=1", f"data.validation={self.folder}/short.safetensors")
        self.assertIn("short.safetensors: no piece is longer than model.prefix, 8 tokens: no evaluation, "
                      "no best checkpoint, no samples\n", done.stderr)
        self.assertEqual(programs.losses(self.folder / "no-validation")[1], [])
        self.assertFalse((self.folder / "refused").exists())

    def test_the_last_evaluation_is_told_once(self):
        for _ in range(3):
            self.train("again", "train.steps=10", "log.eval_every=4", "checkpoint.every=5", "optimizer.lr=0.3",
                       "optimizer.schedule=constant", "optimizer.warmup=0", "train.seed=3")
            self.assertEqual([m["step"] for m in programs.metrics(self.folder / "again")[1]], [0, 4, 8, 10])

    def test_run_directories(self):
        (self.folder / "file").write_text("")
        self.refuse(1, "FOLDER/file: expected a folder, found a file", run="file/run")
        self.refuse(2, "--run-dir: expected a path of 1 to 3500 bytes, found 4000", "--run-dir", "x" * 4000)

    def test_another_run_s_settings(self):
        self.train("first", "train.steps=5")
        self.refuse(2, "train.seed: checkpoint 1, configuration 2", "train.seed=2", run="first")
        self.refuse(2, "model.dim: checkpoint 16, configuration 24; model.depth: checkpoint 2, configuration 1",
                    "model.dim=24", "model.depth=1", run="first")
        programs.write_tokens(self.folder / "other.safetensors", [70, 80, 90], seed=7)
        done = programs.train(self.folder, "first", f"data.train={self.folder}/other.safetensors")
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr,
                         r"other\.safetensors: expected the run's training data, CRC-32C \w{8}, found \w{8}; to train "
                         r"its weights on other data, use --init ")
        programs.write_tokens(self.folder / "neural.safetensors", [50], encoding="midi-neural")
        self.refuse(2, "data.train: expected the checkpoint's encoding, performance, found midi-neural",
                    f"data.train={self.folder}/neural.safetensors", "data.validation=", run="first")
        self.refuse(2, "FOLDER/none: expected a model file, a checkpoint or a run directory, found nothing there",
                    "--init", str(self.folder / "none"), run="second")
        self.assertFalse((self.folder / "second").exists())
        before = tree(self.folder / "first")
        self.refuse(2, "FOLDER/none: expected a model file, a checkpoint or a run directory, found nothing there",
                    "--fresh", "--init", str(self.folder / "none"), run="first")
        self.assertEqual(tree(self.folder / "first"), before)

    def test_a_second_run_in_the_same_directory(self):
        process = self.start("busy", "train.steps=100", "checkpoint.every=0", "log.eval_every=0")
        self.assertTrue(self.wait_for_step(process, 1))
        process.send_signal(signal.SIGSTOP)
        for more in ((), ("--fresh",)):
            self.refuse(1, f"FOLDER/busy is in use by another run (process {process.pid} on {socket.gethostname()})",
                        *more, run="busy")
        process.kill()
        process.wait()
        done = self.train("busy", "train.steps=2")  # the lock went with the process
        gone = f"{self.folder}/busy: the previous start was killed (process {process.pid} on {socket.gethostname()})\n"
        self.assertIn(gone, done.stderr)
        self.assertNotIn("was killed", self.train("busy", "train.steps=3").stderr)


class Directories(Run):
    def test_dry_run_writes_nothing(self):
        self.train("kept", "train.steps=5")
        before = tree(self.folder)
        for run in ("new", "kept"):
            done = self.train(run, "--dry-run", "--fresh")
            self.assertRegex(done.stderr,
                             r"million parameters in \d+ tensors; 4 windows a step, 4 at a time; 9 windows an epoch\n")
            self.assertRegex(done.stderr, r"memory plan, .*\n  parameters +\d+\.\d MB\n(.*\n)+  all +\d+\.\d MB\n")
            self.assertRegex(done.stderr,
                             r"step 1  epoch .*\ndry run: one window took \d+\.\d\d s, and a step of 4 at most about "
                             r"\d+\.\d s; nothing written\n$")
        self.assertEqual(tree(self.folder), before)

    def test_dry_run_of_many_latents(self):
        """Only some of them are computed."""
        done = self.train("many", "--dry-run", "model.context=3000", "model.prefix=8")
        self.assertRegex(done.stderr,
                         r"dry run: 1024 of the 2992 latents of a window took [\d.]+ s, so all take about [\d.]+ s, "
                         r"and a step of 4 ")

    def test_dry_run_ends_on_a_signal(self):
        process = self.start("slow", *SLOW, "train.global_batch=1", "model.depth=64", "--dry-run")  # many seconds
        compute(process, 0.5)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.communicate()[0], None)
        self.assertEqual(process.returncode, -signal.SIGTERM)
        self.assertFalse((self.folder / "slow").exists())

    def test_dry_run_prints_disk_use(self):
        said = self.train("disk", "--dry-run", "checkpoint.keep=5", "log.eval_every=10").stderr
        each, count, total = re.search(r"^checkpoints: ([\d.]+) MB each, at most (\d+) on disk, ([\d.]+) MB "
                                       r"\(checkpoint.keep = 5, the best, one being written\)$", said,
                                       re.MULTILINE).groups()
        self.assertEqual(count, "7")
        self.assertAlmostEqual(float(total), 7 * float(each), delta=7 * 0.05 + 0.05)
        self.train("disk", "train.steps=1", "log.eval_every=0")
        size = sum(path.stat().st_size for path in (self.folder / "disk/latest/").iterdir())
        self.assertAlmostEqual(size / 1e6, float(each), delta=0.05 + 0.02)  # headers

    def test_fresh_is_for_runs(self):
        (self.folder / "mine").mkdir()
        (self.folder / "mine/song.mid").write_bytes(b"mine")
        done = self.train("mine", "train.steps=5", "--fresh", status=2)
        self.assertTrue(done.stderr.endswith(
            f"patrain: --fresh: expected a run directory, found {self.folder}/mine, which has no checkpoints\n"))
        self.assertEqual(tree(self.folder / "mine"), {self.folder / "mine/song.mid": b"mine"})

    def test_fresh_moves_aside(self):
        self.train("fresh", "train.steps=5")
        old = tree(self.folder / "fresh")
        done = self.train("fresh", "train.steps=3", "--fresh")
        self.assertIn(f"{self.folder}/fresh moved to {self.folder}/fresh.old-1\n", done.stderr)
        moved = {self.folder / "fresh" / p.relative_to(self.folder / "fresh.old-1"): v
                 for p, v in tree(self.folder / "fresh.old-1").items()}
        old.pop(self.folder / "fresh/lock"), moved.pop(self.folder / "fresh/lock")
        self.assertEqual(moved, old)
        self.assertEqual(len(programs.metrics(self.folder / "fresh")[0]), 3)
        self.train("fresh/", "train.steps=2", "--fresh")  # as the shell completes it
        self.assertTrue((self.folder / "fresh.old-2/latest/model.safetensors").exists())

    def test_config_is_written_whole(self):
        run = "config, depth=1"
        self.train(run, "train.steps=3", "model.depth=1")
        text = (self.folder / run / "config.ini").read_text()
        self.assertIn("\ndepth = 1\n", text)
        programs.subprocess.run([programs.PATRAIN, str(self.folder / run / "config.ini"), "--run-dir",
                                 str(self.folder / "again"), "--device", "cpu"], env=programs.environment(), check=True,
                                capture_output=True)
        self.assertEqual((self.folder / "again/config.ini").read_text(), text)
        self.assert_same_run(run, "again")

    def test_changed_settings_are_told(self):
        self.train("changed", "train.steps=3")
        # the same corpus
        (self.folder / "moved.safetensors").write_bytes((self.folder / "train.safetensors").read_bytes())
        done = self.train("changed", "train.steps=5", "optimizer.lr=0.001", "log.every=2",
                          f"data.train={self.folder}/moved.safetensors")
        self.assertEqual(re.findall(r"^(\S+): was (\S+), is (\S+)$", done.stderr, re.MULTILINE), [
            ("data.train", f"{self.folder}/train.safetensors", f"{self.folder}/moved.safetensors"),
            ("train.steps", "3", "5"),
            ("optimizer.lr", "0.003", "0.001"), ("log.every", "1", "2")])
        self.assertNotIn(": was ", self.train("changed", "train.steps=5", "optimizer.lr=0.001", "log.every=2",
                                              f"data.train={self.folder}/moved.safetensors").stderr)

    def test_init_takes_another_runs_weights(self):
        self.train("source", "train.steps=20")
        done = self.train("init", "train.steps=5", "--init", str(self.folder / "source"), "train.seed=9")
        self.assertIn(f"weights from {self.folder}/source/best/model.safetensors\n", done.stderr)
        steps, evaluations = programs.metrics(self.folder / "init")
        best = min(m["eval_loss"] for m in programs.metrics(self.folder / "source")[1])
        self.assertLess(abs(evaluations[0]["eval_loss"] - best), 0.2)  # another seed, other crops
        self.assertEqual([m["step"] for m in steps], [1, 2, 3, 4, 5])
        source = programs.checkpoint(self.folder / "source", "best")[0]
        programs.write_safetensors(self.folder / "theirs", [(f"module.{n}", *t) for n, t in source.items()],
                                   {"format": "pt"})
        self.train("theirs-run", "train.steps=5", "--init", str(self.folder / "theirs"), "train.seed=9")
        self.assert_same_run("init", "theirs-run")


    def test_init_brings_its_model(self):
        """Fine-tuning in one line, without a configuration; what a configuration says of [model] must agree."""
        self.train("base", "train.steps=20")
        f, base = str(self.folder), str(self.folder / "base")
        line = [programs.PATRAIN, "--init", base, f"data.train={f}/train.safetensors", "train.steps=3", "--device",
                "cpu"]
        for expected in ("weights from ", "resuming from step 3"):  # the second time it is a run to resume
            done = subprocess.run(line, cwd=f, env=programs.environment(), capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(expected, done.stderr)
            self.assertIn("run directory: runs/base-tuned\n", done.stderr)
        text = (self.folder / "runs/base-tuned/config.ini").read_text()
        self.assertIn("\ndim = 16\n", text)
        self.assertIn(f"\nvalidation = {f}/validation.safetensors\n", text)  # beside the training file
        steps, evaluations = programs.metrics(self.folder / "runs/base-tuned")
        self.assertEqual([m["step"] for m in steps], [1, 2, 3])
        self.assertLess(evaluations[0]["eval_loss"], 6)  # a new model's: 6.16

        def refuse(status, message, *arguments):
            done = subprocess.run([programs.PATRAIN, *arguments], env=programs.environment(), capture_output=True,
                                  text=True)
            self.assertEqual((done.returncode, done.stderr.splitlines()[-1]), (status, f"patrain: {message}"))

        refuse(2, "model.dim: checkpoint 16, configuration 24", "--init", base, "model.dim=24",
               f"data.train={f}/train.safetensors", "--run-dir", f"{f}/none", "--device", "cpu")
        (self.folder / "depth.ini").write_text(
            f"[model]\ndepth = 3\n[data]\ntrain = {f}/train.safetensors\nvalidation =\n")
        refuse(2, "model.depth: checkpoint 2, configuration 3", f"{f}/depth.ini", "--init", base, "--run-dir",
               f"{f}/none", "--device", "cpu")
        (self.folder / "silent.ini").write_text(
            f"[data]\ntrain = {f}/train.safetensors\nvalidation =\n[train]\nsteps = 1\n")
        subprocess.run([programs.PATRAIN, f"{f}/silent.ini", "--init", base, "--run-dir", f"{f}/silent", "--device",
                        "cpu"],
                       env=programs.environment(), capture_output=True, check=True)
        programs.write_safetensors(self.folder / "foreign.safetensors",
                                   [(n, *t) for n, t in programs.checkpoint(self.folder / "base")[0].items()],
                                   {"format": "pt"})
        refuse(2, f"{f}/foreign.safetensors does not store its settings: expected CONFIG.ini, whose [model] describes "
                  f"it", "--init",
               f"{f}/foreign.safetensors", f"data.train={f}/train.safetensors")
        self.assertFalse((self.folder / "none").exists())

    def test_validation_is_opened_only_for_use(self):
        missing = f"data.validation={self.folder}/missing.safetensors"
        self.train("no-eval", "train.steps=2", "log.eval_every=0", missing)
        self.train("dry", "--dry-run", missing)
        self.assertIn("cannot open", self.train("evaluated", missing, status=2).stderr)


class Mixed(Run):
    """Parts of a run that are not its own."""

    def latest(self, run):
        return (self.folder / run / "latest").resolve()

    def test_a_model_of_another_run(self):
        for run, seed in (("own", 1), ("other", 2)):
            self.train(run, "train.steps=20", "log.eval_every=0", f"train.seed={seed}")
        for file, found in (("model", r"expected the state of a model with CRC-32C \w{8}, found that of \w{8}"),
                            ("state", r"expected the state of a model with CRC-32C \w{8}, found that of \w{8}")):
            run = f"mixed-{file}"
            shutil.copytree(self.folder / "own", self.folder / run, symlinks=True)
            shutil.copy(self.latest("other") / f"{file}.safetensors", self.latest(run))
            said = self.train(run, "train.steps=25", "log.eval_every=0").stderr
            self.assertRegex(said, f"skipping a damaged checkpoint: .*step-00000020/state.safetensors: {found}\n")
            self.assertIn("resuming from step 10\n", said)

    def test_a_folder_of_another_step(self):
        self.train("named", "train.steps=20", "log.eval_every=0")
        shutil.copytree(self.latest("named"), self.folder / "named/checkpoints/step-00000030")
        said = self.train("named", "train.steps=25", "log.eval_every=0").stderr
        self.assertRegex(said,
                         "skipping a damaged checkpoint: .*step-00000030/state.safetensors: expected step 30, of the "
                         "folder's name, found 20\n")
        self.assertIn("resuming from step 20\n", said)

    def test_other_validation_data(self):
        """Refused where the best was measured on the former; where nothing was, it becomes the run's."""
        other = self.folder / "other.safetensors"
        programs.write_tokens(other, [70, 90, 20], seed=5)
        self.train("validated", "train.steps=10", "log.eval_every=0", "data.validation=")
        self.train("validated", "train.steps=20")
        self.train("validated", "train.steps=30", "log.eval_every=0", "data.validation=")
        before = tree(self.folder / "validated/checkpoints")
        done = self.train("validated", "train.steps=40", f"data.validation={other}", status=2)
        self.assertRegex(done.stderr.splitlines()[-1],
                         rf"^patrain: {other}: expected the run's validation data, CRC-32C \w{{8}}, found \w{{8}}; "
                         "its best checkpoint was measured on the former$")
        self.assertEqual(tree(self.folder / "validated/checkpoints"), before)
        self.train("validated", "train.steps=40")


if __name__ == "__main__":
    unittest.main()
