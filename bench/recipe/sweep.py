#!/usr/bin/env python3
"""Compares configurations of patrain: each with several seeds, in turn, then a table of means and paired differences.

    bench/recipe/sweep.py OUT MATRIX CONFIG.ini [section.key=value ...] [--seeds 1,2,3] [--jobs 1] [--field eval_loss]
                          [--paeval TOKENS.safetensors] [--pieces N] [--bin build/cpu/bin]
    bench/recipe/sweep.py OUT --table

bench/recipe/README.md explains MATRIX and the table. Ctrl-C stops the runs, which save; the same command resumes them.
Standard library only.
"""

import argparse
import concurrent.futures
import json
import math
import pathlib
import signal
import statistics
import subprocess
import sys
import threading


def read_matrix(text):
    """{name: [settings]} of lines "NAME section.key=value ...", # begins a comment."""
    matrix = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, *settings = line.split("#")[0].split() or [""]
        if not name:
            continue
        if name in matrix or "=" in name or "/" in name:
            raise ValueError(f"line {number}: expected a new name, found \"{name}\"")
        for setting in settings:
            if "=" not in setting:
                raise ValueError(f"line {number}: expected section.key=value, found \"{setting}\"")
        matrix[name] = settings
    if not matrix:
        raise ValueError("expected a line \"NAME section.key=value ...\", found none")
    return matrix


def in_turn(names, seeds):
    """(name, seed) of all runs: all configurations with a seed, then with the next, each time beginning with
    another."""
    for turn, seed in enumerate(seeds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            yield name, seed


def error_of(values):
    """Standard error of the mean; NaN of fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def compare(rows):
    """Of each name, in order: runs, mean, its error, the mean paired difference to the first name over common seeds,
    twice its error, verdict, mean steps."""
    by_name = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["seed"]] = row
    first = next(iter(by_name.values()), {})
    for name, of in by_name.items():
        values = [row["value"] for row in of.values()]
        pairs = [of[seed]["value"] - first[seed]["value"] for seed in of if seed in first]
        difference = statistics.fmean(pairs) if pairs else math.nan
        bound = 2 * error_of(pairs)
        verdict = "" if of is first else "too few seeds" if len(pairs) < 3 else "noise"
        if verdict == "noise" and abs(difference) > bound:
            verdict = "lower" if difference < 0 else "higher"
        steps = statistics.fmean(row["steps"] for row in of.values())
        yield name, len(values), statistics.fmean(values), error_of(values), difference, bound, verdict, steps


def print_table(rows):
    width = max([len("configuration"), *(len(row["name"]) for row in rows)])
    print(f"{'configuration':{width}}  seeds      mean  std. error  difference     2 errors  {'':13}  steps")
    for number, (name, count, mean, error, difference, bound, verdict, steps) in enumerate(compare(rows)):
        paired = f"{difference:+10.4f}   {bound:10.4f}" if number else f"{'':23}"
        print(f"{name:{width}}  {count:5}  {mean:8.4f}  {error:10.4f}  {paired}  {verdict:13}  {steps:5.0f}")


class Sweep:
    def __init__(self, options, matrix):
        self.options, self.matrix = options, matrix
        self.results = options.out / "results.jsonl"
        self.rows = read_rows(self.results)
        self.lock, self.running, self.stopping = threading.Lock(), set(), False

    def settings(self, name):
        return [*self.options.settings, *self.matrix[name]]

    def check(self):
        """Results of another matrix are not to be mixed with this one's."""
        for row in self.rows:
            name, had = row["name"], (row["config"], row["settings"])
            if name in self.matrix and had != (str(self.options.config), self.settings(name)):
                raise ValueError(f"{self.results}: {name} had other settings; name the new ones otherwise, "
                                 "or use another folder")

    def stop(self, *_):
        """patrain saves when it gets the signal, of which a terminal sends it one of its own."""
        with self.lock:
            self.stopping = True
            for process in self.running:
                process.send_signal(signal.SIGTERM)

    def start(self, line, **streams):
        with self.lock:
            if self.stopping:
                return None
            process = subprocess.Popen(line, text=True, start_new_session=True, **streams)
            self.running.add(process)
        return process

    def wait(self, process):
        """(exit status, stdout, stderr); None where the sweep is stopping."""
        if not process:
            return None
        out, said = process.communicate()
        with self.lock:
            self.running.discard(process)
        return None if self.stopping else (process.returncode, out, said)

    def value(self, run):
        """The measure of a finished run; None where the sweep is stopping."""
        if not self.options.paeval:
            lines = (run / "metrics.jsonl").read_text().splitlines()
            last = [json.loads(line) for line in lines if '"eval_loss"' in line][-1:]
            if not last or last[0].get(self.options.field) is None:
                raise ValueError(f"{run}/metrics.jsonl: expected an evaluation with {self.options.field}, found none")
            return last[0][self.options.field]
        line = [self.options.bin / "paeval", run / "latest", self.options.paeval, "--json"]
        line += ["--pieces", str(self.options.pieces)] if self.options.pieces else []
        done = self.wait(self.start(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        if done and done[0]:
            raise ValueError(done[2].strip() or f"paeval {run}: exit status {done[0]}")
        return json.loads(done[1])["loss"] if done else None

    def run(self, name, seed):
        run = self.options.out / f"{name}-{seed}"
        if any((row["name"], row["seed"]) == (name, seed) for row in self.rows):
            return
        line = [self.options.bin / "patrain", self.options.config, *self.settings(name), f"train.seed={seed}",
                "--run-dir", run]
        done = self.wait(self.start(line, stderr=subprocess.PIPE))
        if not done:
            return
        if done[0]:
            raise ValueError(done[2].strip().splitlines()[-1] if done[2].strip() else f"{run}: exit status {done[0]}")
        value = self.value(run)
        if value is None:
            return
        steps = [json.loads(line)["step"]
                 for line in (run / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
        row = {"number": list(self.matrix).index(name), "name": name, "seed": seed, "value": value,
               "steps": max(steps, default=0), "config": str(self.options.config), "settings": self.settings(name)}
        with self.lock:
            self.rows.append(row)
            with self.results.open("a") as f:
                f.write(json.dumps(row) + "\n")
        print(f"{name}, seed {seed}: {value:.4f} after {row['steps']} steps", flush=True)

    def go(self):
        """True once all runs are done."""
        self.check()
        self.options.out.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGTERM, self.stop)
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            runs = [pool.submit(self.run, name, seed) for name, seed in in_turn(list(self.matrix), self.options.seeds)]
            try:
                for run in concurrent.futures.as_completed(runs):
                    run.result()
            except ValueError:
                self.stop()
                raise
        return not self.stopping


def read_rows(path):
    """A line that was torn by a crash is left out: its run is done again."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            pass
    return rows


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="folder of the runs and of results.jsonl")
    parser.add_argument("matrix", type=pathlib.Path, nargs="?", help="file of configurations")
    parser.add_argument("config", type=pathlib.Path, nargs="?", help="configuration that all begin with")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="settings of all runs")
    parser.add_argument("--seeds", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2, 3],
                        help="values of train.seed (default: 1,2,3)")
    parser.add_argument("--jobs", type=int, default=1,
                        help="runs at a time (default: 1); OMP_NUM_THREADS is each one's threads")
    parser.add_argument("--field", default="eval_loss",
                        help="what is compared, of the last evaluation in metrics.jsonl (default: eval_loss)")
    parser.add_argument("--paeval", type=pathlib.Path, metavar="TOKENS",
                        help="compare paeval's nats a token of this file instead")
    parser.add_argument("--pieces", type=int, help="with --paeval: its first pieces only")
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("build/cpu/bin"),
                        help="folder of the programs (default: build/cpu/bin)")
    parser.add_argument("--table", action="store_true", help="print the table of what is done, run nothing")
    return parser, parser.parse_intermixed_args()


def main():
    parser, options = arguments()
    if not options.table and not options.config:
        parser.error("expected a file of configurations and a configuration")
    try:
        done = True
        rows = sorted(read_rows(options.out / "results.jsonl"), key=lambda row: row["number"])
        if not options.table:
            matrix = read_matrix(options.matrix.read_text())
            sweep = Sweep(options, matrix)
            done, rows = sweep.go(), sweep.rows
            order = {name: number for number, name in enumerate(matrix)}
            rows = sorted((row for row in rows if row["name"] in order), key=lambda row: order[row["name"]])
    except (ValueError, OSError) as error:
        sys.exit(f"sweep: {error}")
    if rows:
        print_table(rows)
    if not done:
        print("stopped; the same command resumes", file=sys.stderr)
        sys.exit(75)


if __name__ == "__main__":
    main()
