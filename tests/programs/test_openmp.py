#!/usr/bin/env python3
"""patrain, paeval and pagen where OpenMP gives regions fewer threads than it says: the numbers of the plain run."""

import json
import os
import subprocess
import unittest

import programs
import tiny

SHIM = os.environ["PA_SHIM"]  # whose load averages make OMP_DYNAMIC give one thread
SETTINGS = [
    {},
    {"OMP_NUM_THREADS": "1"},
    {"OMP_DYNAMIC": "true", "LD_PRELOAD": SHIM, "ASAN_OPTIONS": "verify_asan_link_order=0"},
    {"OMP_THREAD_LIMIT": "1"},
    {"OMP_NUM_THREADS": "3", "OMP_THREAD_LIMIT": "2"},
    {"OMP_MAX_ACTIVE_LEVELS": "0"},
    {"OMP_MAX_ACTIVE_LEVELS": "3", "OMP_NUM_THREADS": "3,2"},
    {"OMP_SCHEDULE": "dynamic,1", "OMP_PROC_BIND": "true"},
]


class OpenMP(tiny.Program):
    def under(self, settings, program, *arguments):
        was = dict(os.environ)
        os.environ.update({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"} | settings)
        try:
            return tiny.run(program, *arguments)
        finally:
            os.environ.clear()
            os.environ.update(was)

    def test_numbers_of_the_plain_run(self):
        for precision in ("fp32", "bf16"):
            expected = None
            for i, settings in enumerate(SETTINGS):
                run, out = self.out(f"{precision}-{i}"), self.out(f"{precision}-{i}.safetensors")
                self.under(settings, "patrain", self.at / "c.ini", "--run-dir", run, f"train.precision={precision}",
                           "log.every=1")
                steps, evaluations = programs.losses(run)
                found, tokens = [x for row in steps + evaluations for x in row], []
                if precision == "fp32":
                    score = self.under(settings, "paeval", self.run_dir, self.tokens, "--precision", precision,
                                       "--json")
                    self.under(settings, "pagen", self.run_dir, "--primer", self.primer, "--output", out,
                               "--length-tokens", 80, "--seed", 3, "--precision", precision)
                    found.append(json.loads(score)["loss"])
                    tokens = tiny.pieces(out)
                expected = expected or (found, tokens)
                with self.subTest(precision=precision, settings=settings):
                    self.assertEqual(len(found), len(expected[0]))
                    for a, b in zip(found, expected[0]):
                        self.assertAlmostEqual(a, b, delta=(1e-5 if precision == "fp32" else 1e-3) * max(1, abs(b)))
                    self.assertEqual(tokens, expected[1])

    def test_a_setting_that_stays(self):
        """Products that lack a part are found at the start, and the settings are named. Not every oneDNN makes such."""
        settings = {"OMP_DYNAMIC": "true", "LD_PRELOAD": SHIM, "FAILING_FS": "omp_set_dynamic:/:1+:1",
                    "ASAN_OPTIONS": "verify_asan_link_order=0"}
        for precision in ("fp32", "bf16"):
            plain, run = self.out(f"{precision}-plain"), self.out(precision)
            for each, more in ((plain, {}), (run, settings)):
                line = tiny.command("patrain", self.at / "c.ini", "--run-dir", each, "--precision", precision)
                done = subprocess.run(line, env=programs.environment(**more), capture_output=True, text=True)
            if done.returncode:
                self.assertRegex(done.stderr.splitlines()[-1], "^patrain: OpenMP: a matrix product on 2 threads is "
                                 r"wrong \(.*OMP_DYNAMIC=true.*\); try OMP_NUM_THREADS=1$")
            else:
                self.assertEqual(programs.losses(run), programs.losses(plain))


if __name__ == "__main__":
    unittest.main()
