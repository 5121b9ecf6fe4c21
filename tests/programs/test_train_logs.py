#!/usr/bin/env python3
"""What patrain records: run.jsonl, train.log, metrics.jsonl, TensorBoard events, and the lines of progress."""

import datetime
import io
import json
import math
import os
import pty
import re
import resource
import shutil
import socket
import struct
import subprocess
import time
import unittest
import wave

import programs
from test_train import SLOW, Run


class Records(Run):
    """run.jsonl, a line a start, and train.log."""

    def starts(self, run):
        return [json.loads(line) for line in (self.folder / run / "run.jsonl").read_text().splitlines()]

    def test_starts(self):
        self.train("starts", "train.steps=2", "--precision", "fp32")
        with open(self.folder / "starts/run.jsonl", "a") as f:
            f.write('{"torn')
        done = self.train("starts", "train.steps=3", "--precision", "fp32",
                          env=programs.environment(OMP_NUM_THREADS="1", PATRAIN_ISA="generic"))
        text = (self.folder / "starts/run.jsonl").read_text().splitlines()
        first, second = json.loads(text[0]), json.loads(text[2])
        self.assertEqual(list(first),
                         ["time", "version", "commit", "host", "processor", "backend", "device", "instruction_set",
                          "threads", "ranks", "precision", "deterministic", "corpus_crc32c", "step", "command"])
        self.assertEqual([first[key] for key in ("host", "backend", "threads", "ranks", "precision", "step")],
                         [socket.gethostname(), "cpu", 2, 1, "fp32", 0])
        self.assertEqual([second[key] for key in ("threads", "instruction_set", "step")], [1, "generic", 2])
        self.assertTrue(second["command"].endswith("train.steps=3 --precision fp32"), second)
        self.assertRegex(done.stderr,
                         r"(?m)^rounding will differ from the previous start: instruction set was \S+, is generic; "
                         r"threads was 2, is 1$")

    def test_log(self):
        """What is on stderr, over all starts, an error too."""
        said = self.train("log", "train.steps=2").stderr + self.train("log", "train.steps=4").stderr
        said += self.train("log", "train.seed=3", status=2).stderr
        self.assertIn("memory plan", said)
        log = (self.folder / "log/train.log").read_text()
        # refused before it got as far as the file
        self.assertEqual(log, said[: said.rindex("0.02 million parameters")])

    def test_log_of_a_failure(self):
        done = self.train("failed", "checkpoint.every=0", "log.eval_every=0", "log.every=20", status=1,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)))
        self.assertEqual((self.folder / "failed/train.log").read_text(), done.stderr)
        self.assertIn("\npatrain: ", done.stderr)

    def test_a_long_warmup(self):
        said = self.train("warm", "train.steps=4", "optimizer.warmup=200", "optimizer.schedule=constant").stderr
        self.assertIn("warning: optimizer.warmup, 200 steps, is longer than the run: using 1\n", said)
        said = self.train("warm-epochs", "train.steps=0", "train.epochs=20", "optimizer.warmup=200",
                          "optimizer.schedule=constant").stderr
        self.assertIn("is longer than the run: using 4\n", said)
        self.assertEqual([m["lr"] for m in programs.metrics(self.folder / "warm-epochs")[0][:5]],
                         [3e-3 * i / 4 for i in (1, 2, 3, 4, 4)])

    def test_a_long_warmup_in_minutes(self):
        self.train("warm-minutes", "train.steps=0", "train.minutes=0.05", "optimizer.warmup=1000000",
                   "optimizer.schedule=constant")
        self.assertEqual(programs.metrics(self.folder / "warm-minutes")[0][-1]["lr"], 3e-3)

    def test_days(self):
        self.assertRegex(self.train("days", "train.steps=200000000", "--dry-run").stderr, r"  left \d+ d \d+ h\n")


class Logs(Run):
    START = [(1, 1)]  # SessionLog's status

    def events(self, path):
        """(step, tag, value) of a TensorBoard file, every frame's length and checksums checked; tag None for the
        version record and the session's."""
        data, out = path.read_bytes(), []

        def check(raw, masked):
            crc = programs.crc32c(raw)
            self.assertEqual(struct.unpack("<I", masked)[0], ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

        while data:
            (length,) = struct.unpack("<Q", data[:8])
            check(data[:8], data[8:12])
            record, data, tail = data[12 : 12 + length], data[16 + length :], data[12 + length : 16 + length]
            check(record, tail)
            fields = dict(self.fields(record))
            self.assertLess(abs(struct.unpack("<d", fields[1])[0] - time.time()), 600)
            if 3 in fields or 7 in fields:
                out.append((fields[2], None, fields[3] if 3 in fields else self.fields(fields[7])))
            else:
                ((number, value),) = self.fields(fields[5])
                value = dict(self.fields(value))
                self.assertEqual(number, 1)
                media = value.get(4, value.get(6))  # an image, or audio
                shown = dict(self.fields(media)) if media else struct.unpack("<f", value[2])[0]
                out.append((fields[2], value[1].decode(), shown))
        return out

    def fields(self, data):
        """(number, value) of a protobuf message."""

        def varint():
            nonlocal data
            value = shift = 0
            while True:
                byte, data = data[0], data[1:]
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value

        out = []
        while data:
            key = varint()
            if key & 7 == 0:
                out.append((key >> 3, varint()))
                continue
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            value, data = data[:size], data[size:]
            self.assertEqual(len(value), size)
            out.append((key >> 3, value))
        return out

    def test_tensorboard(self):
        self.train("events", "train.steps=200", "log.every=5", "log.eval_every=100")
        (path,) = (self.folder / "events").glob("events.out.tfevents.*")
        events = self.events(path)
        self.assertEqual(events[:2], [(0, None, b"brain.Event:2"), (0, None, self.START)])
        steps, evaluations = programs.metrics(self.folder / "events")
        shown = [m for m in steps if m["step"] % 5 == 0 or m["step"] == 1]
        for tag, key, of in (("loss", "loss", shown), ("lr", "lr", shown), ("grad_norm", "grad_norm", shown)):
            expected = [(m["step"], struct.unpack("<f", struct.pack("<f", m[key]))[0]) for m in of]
            self.assertEqual([(s, v) for s, t, v in events if t == f"train/{tag}"], expected)
        evaluated = [(s, v) for s, t, v in events if t == "eval/loss"]
        self.assertEqual([s for s, v in evaluated], [0, 100, 200])
        self.assertAlmostEqual(evaluated[2][1], evaluations[2]["eval_loss"], delta=1e-6)
        self.assertEqual({t for _, t, _ in events[2:]},
                         {"train/loss", "train/lr", "train/grad_norm", "train/tokens_per_s", "eval/loss"})

    def test_samples(self):
        """Each has a picture and a sound, as files and in TensorBoard."""
        self.train("samples", "train.steps=6", "log.sample_every=3", "log.eval_every=0")
        (path,) = (self.folder / "samples").glob("events.out.tfevents.*")
        shown = {(tag, step): value for step, tag, value in self.events(path) if tag and tag.startswith("sample/")}
        self.assertEqual(sorted(shown), [("sample/roll", 3), ("sample/roll", 6), ("sample/sound", 3),
                                         ("sample/sound", 6)])
        for step in (3, 6):
            name = self.folder / f"samples/samples/step-{step:08}"
            roll, sound = shown["sample/roll", step], shown["sample/sound", step]
            png = roll.pop(4)
            self.assertEqual(roll, {1: 176, 2: 1000, 3: 3})  # height, width, RGB
            self.assertEqual(png, name.with_suffix(".png").read_bytes())
            wav = sound.pop(4)
            self.assertEqual((struct.unpack("<f", sound.pop(1)), sound), ((22050,), {2: 1, 3: 441000, 5: b"audio/wav"}))
            self.assertEqual(wav, name.with_suffix(".wav").read_bytes())
            with wave.open(io.BytesIO(wav)) as w:
                self.assertEqual(w.getparams()[:4], (1, 2, 22050, 441000))
                self.assertAlmostEqual(max(map(abs, struct.unpack("<441000h", w.readframes(441000)))), 29490, delta=1)
            self.assertTrue(name.with_suffix(".mid").exists())

    def test_tensorboard_of_a_run_that_goes_on(self):
        """At a start TensorBoard drops what it has read of that step and later ones (event_accumulator.py): as
        metrics.jsonl is cut."""
        settings = ("log.every=1", "log.eval_every=4", "checkpoint.every=0")
        self.train("behind", "train.steps=5", *settings)
        shutil.copytree(self.folder / "behind", self.folder / "ahead", symlinks=True)
        self.train("ahead", "train.steps=9", *settings)
        for path in (self.folder / "ahead/metrics.jsonl", *(self.folder / "ahead").glob("events.*")):
            shutil.copy2(path, self.folder / "behind")
        self.train("behind", "train.steps=7", *settings)
        files = sorted((self.folder / "behind").glob("events.*"), key=lambda path: path.stat().st_mtime_ns)
        starts, shown = [], []
        for path in files:
            for step, tag, value in self.events(path):
                if tag:
                    shown.append((step, tag, value))
                elif value == self.START:
                    starts.append(step)
                    shown = [event for event in shown if event[0] < step]
        self.assertEqual(starts, [0, 6, 6])
        steps, evaluations = programs.metrics(self.folder / "behind")
        for tag, lines, key in (("train/loss", steps, "loss"), ("eval/loss", evaluations, "eval_loss")):
            expected = [(m["step"], struct.unpack("<f", struct.pack("<f", m[key]))[0]) for m in lines]
            self.assertEqual([(s, v) for s, t, v in shown if t == tag], expected)

    def test_starts_in_one_second(self):
        """None writes over another's events. The shim's time of day stands still."""
        for steps in (2, 4):
            self.train("second", f"train.steps={steps}", "log.every=1", "log.eval_every=0", env=programs.environment(
                LD_PRELOAD=os.environ["PA_SHIM"], ASAN_OPTIONS="verify_asan_link_order=0"))
        files = list((self.folder / "second").glob("events.*"))
        shown = sorted(step for path in files for step, tag, _ in self.events(path) if tag == "train/loss")
        self.assertEqual((len(files), shown), (2, [1, 2, 3, 4]), files)

    def test_closed_standard_streams(self):
        """No file takes their numbers, so that none receives the messages on stderr."""

        def close():
            os.close(0)  # which the lock would take, and the metrics the other
            os.close(2)

        done = self.train("closed", "train.steps=6", "log.eval_every=3", stdin=programs.subprocess.DEVNULL,
                          preexec_fn=close)
        self.assertEqual(done.stderr, "")
        steps, evaluations = programs.metrics(self.folder / "closed")  # every line is one of these
        self.assertEqual((len(steps), len(evaluations)), (6, 3))

    def test_metrics(self):
        self.train("metrics", "train.steps=6", "log.every=3", "log.eval_every=3")
        steps, evaluations = programs.metrics(self.folder / "metrics")
        self.assertEqual([m["step"] for m in steps], [1, 2, 3, 4, 5, 6])
        for m in steps:
            self.assertEqual(list(m),
                             ["step", "epoch", "loss", "lr", "grad_norm", "tokens_per_s", "mfu", "seconds", "time"])
            self.assertTrue(all(math.isfinite(v) for key, v in m.items() if key != "time"))
            self.assertLessEqual(m["mfu"], 1)
        self.assertEqual([m["step"] for m in evaluations], [0, 3, 6])
        self.assertEqual(list(evaluations[0]),
                         ["step", "eval_loss", "eval_loss_seed", "eval_accuracy", "eval_seconds", "time"])
        times = [datetime.datetime.fromisoformat(m["time"]) for m in steps]
        self.assertEqual(times, sorted(times))
        self.assertLess(abs(times[-1].timestamp() - time.time()), 600)

    def test_a_bar_on_a_terminal(self):
        """While steps take more than a second, from one micro-batch to the next."""
        terminal, other = pty.openpty()
        line = programs.command(self.folder, "bar", *SLOW, "train.global_batch=128", "train.micro_batch=4",
                                "train.steps=1", "checkpoint.every=0")
        process = subprocess.Popen(line, env=programs.environment(TERM="xterm"), stderr=other,
                                   stdout=subprocess.DEVNULL)
        os.close(other)
        said = b""
        try:
            while part := os.read(terminal, 4096):
                said += part
        except OSError:  # its end is closed
            pass
        os.close(terminal)
        self.assertEqual(process.wait(), 0, said)
        self.assertRegex(said.decode(), r"\r\033\[Ktraining  .*\d+ %  [01] of 1 steps")
        self.assertRegex(said.decode(), r"\r\033\[Kstep 1  ")

    def test_progress_lines(self):
        done = self.train("lines", "train.steps=6", "log.every=3", "log.eval_every=0")
        shown = re.findall(r"^step (\d+)  epoch \d\.\d\d  loss \d\.\d{4}  lr \S+  norm \S+  \d+ tokens/s  "
                           r"\d+\.\d% of measured peak  \d+\.\d\d GB  left 0:00:\d\d$", done.stderr, re.MULTILINE)
        self.assertEqual(shown, ["1", "3", "6"])

    def test_a_torn_line_is_dropped(self):
        self.train("torn", "train.steps=10")
        with open(self.folder / "torn/metrics.jsonl", "a") as f:
            f.write('{"step":11,"loss":3.1}\n{"step":12,"lo')
        self.train("torn", "train.steps=14")
        self.assertEqual([m["step"] for m in programs.metrics(self.folder / "torn")[0]], list(range(1, 15)))


class Cost(Run):
    """What a start, its steps and its saves read and write does not depend on the steps before."""

    def at_step(self, run, step):
        """A run of three steps becomes one of `step`."""
        self.train(run, "train.steps=3", "log.eval_every=0")
        folder = (self.folder / run / "latest").resolve()
        for file in ("model", "state"):
            tensors, meta = programs.read_safetensors(folder / f"{file}.safetensors")
            meta |= {"step": str(step)} | ({"updates": str(step)} if file == "state" else {})
            rows = [(name, *t) for name, t in tensors.items()]
            programs.write_safetensors(folder / f"{file}.safetensors", rows, meta)
        folder.rename(folder.parent / f"step-{step:08}")
        line = (self.folder / run / "metrics.jsonl").read_text().splitlines()[-1]
        rest = line[line.index(","):]
        with open(self.folder / run / "metrics.jsonl", "w") as f:
            f.writelines(f'{{"step":{i}{rest}\n' for i in range(1, step + 1))

    def used(self, run, step):
        """(bytes, calls) of 20 more steps and four saves; a process's numbers come to its parent's when it is waited
        for."""

        def now():
            with open("/proc/self/io") as f:
                return [int(line.split()[1]) for line in f][:4]

        line = programs.command(self.folder, run, f"train.steps={step + 20}", "checkpoint.every=5", "log.eval_every=0",
                                "log.every=1")
        before = now()
        with open(self.folder / f"{run}.txt", "w+") as said:
            done = subprocess.run(line, env=programs.environment(), stderr=said)
            after = now()
            said.seek(0)
            self.assertEqual(done.returncode, 0, said.read())
        read, written, reads, writes = (b - a for a, b in zip(before, after))
        return read + written, reads + writes

    @unittest.skipUnless(os.path.exists("/proc/self/io"), "this system does not count a process's reads")
    def test_a_million_steps(self):
        used = {}
        for step in (10**4, 10**6):
            self.at_step(f"cost-{step}", step)
            used[step] = self.used(f"cost-{step}", step)
            self.assertIn(f"resuming from step {step}\n", (self.folder / f"cost-{step}.txt").read_text())
            self.assertEqual(os.readlink(self.folder / f"cost-{step}/latest"), f"checkpoints/step-{step + 20:08}")
        for few, many, slack in zip(used[10**4], used[10**6], (1 << 16, 100)):
            self.assertLess(many, few + slack, used)


if __name__ == "__main__":
    unittest.main()
