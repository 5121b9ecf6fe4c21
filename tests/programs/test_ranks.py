#!/usr/bin/env python3
"""patrain over several ranks, started by mpirun (where it is there) and one by one: one trajectory, resumed on any
number, stopped together; and what happens when a rank dies or falls silent. PA_MPIRUN: another mpirun than the
path's."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import unittest

import programs

SHIM = os.environ.get("PA_SHIM")  # of failing disks, tests/support/failing_fs.c
MPIRUN = shutil.which(os.environ.get("PA_MPIRUN", "mpirun"))
SETTINGS = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1"}
# Buckets of 8 kB: the tiny model's gradients are some ten of them.
ENVIRONMENT = programs.environment(**SETTINGS, OMP_NUM_THREADS="1", OMPI_MCA_hwloc_base_binding_policy="none",
                                   PATRAIN_BUCKET="8192")


def ranks_below(pid):
    """Processes that a launcher started, itself or through others of its own, in the order of their ids."""
    children = [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return sorted(rank for child in children for rank in ranks_below(child) or [child])


def is_there(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


SILENT = re.compile(r"patrain: communication: nothing from ranks? ([\d, ]+) for 10 s \(train.timeout\)")

class Ranks(programs.WithCorpus):
    def start(self, ranks, run, *arguments, mpi=False, environment=ENVIRONMENT):
        """The processes of a run: mpirun, or each rank."""
        line = programs.command(self.folder, run, *arguments)
        if mpi and not MPIRUN:
            self.skipTest("no mpirun here")
        lines = [[MPIRUN, "-n", str(ranks), *line]] if mpi else []
        for rank in range(0 if mpi else ranks):
            lines.append([*line, "--rendezvous", f"{self.folder}/{run}.meet", "--rank", str(rank), "--world",
                          str(ranks)])
        processes = [subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) for line in lines]
        for process in processes:
            self.addCleanup(process.stderr.close)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
        return processes

    def finish(self, processes):
        """What each said, once all have ended; their exit codes."""
        said = [process.communicate(timeout=120)[1] for process in processes]
        return said, [process.returncode for process in processes]

    def train(self, ranks, run, *arguments, mpi=False, status=0):
        said, codes = self.finish(self.start(ranks, run, *arguments, mpi=mpi))
        self.assertEqual(set(codes), {status}, said)
        return said[0]

    def wait_for_step(self, process, step):
        """What it says until then."""
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith(f"step {step} "):
                return said
        self.fail(f"no step {step}")

    def losses(self, run):
        return programs.losses(self.folder / run)

    def assert_close(self, one, other):
        """Every step's loss, rate and norm, every evaluation: equal but for the order of float32 sums."""
        for ours, theirs in zip(self.losses(one), self.losses(other)):
            self.assertEqual([row[0] for row in ours], [row[0] for row in theirs])
            for a, b in zip(ours, theirs):
                for x, y in zip(a, b):
                    self.assertAlmostEqual(x, y, delta=1e-5 * max(1, abs(x)))

    def assert_same(self, one, other):
        self.assertEqual(self.losses(one), self.losses(other))
        for which in ("latest", "best"):
            a, b = (programs.checkpoint(self.folder / run, which) for run in (one, other))
            self.assertTrue(a == b, f"{which} of {one} and {other} differ")

    def test_trajectory_of_any_number_of_ranks(self):
        self.train(1, "one", "train.precision=fp32")
        self.assertEqual(len(self.losses("one")[0]), 40)
        for ranks in (2, 3, 4, 8):  # of 4 windows: four of the eight have none
            with self.subTest(ranks=ranks):
                self.train(ranks, f"ranks-{ranks}", f"train.micro_batch={ranks % 3}", f"train.zero={ranks // 2 % 2}",
                           "train.precision=fp32")
                self.assert_close("one", f"ranks-{ranks}")
                steps = programs.metrics(self.folder / f"ranks-{ranks}")[0]
                self.assertTrue(all(m["sent_bytes"] > 0 <= m["waited"] <= m["seconds"] for m in steps))

    def test_same_ranks_same_bits(self):
        """However they were started, whoever keeps the moments."""
        self.train(3, "bits")
        self.train(3, "bits-zero", "train.zero=1")
        self.assert_same("bits", "bits-zero")
        if MPIRUN:
            self.train(3, "bits-mpi", "train.zero=1", mpi=True)
            self.assert_same("bits", "bits-mpi")

    def test_starts_of_pieces(self):
        """They are the last windows of a step, so that not all ranks have some."""
        steps = ("data.piece_starts=0.4", "train.precision=fp32")
        self.train(1, "starts", *steps)
        self.train(3, "starts-3", *steps)
        self.assert_close("starts", "starts-3")
        self.train(3, "starts-again", *steps, "train.zero=1")
        self.assert_same("starts-3", "starts-again")

    def test_moments_are_shared_out(self):
        plan = {}
        for zero in (0, 1):
            said = self.train(4, "plan", f"train.zero={zero}", "--dry-run")
            plan[zero] = {name: float(size) for name, size in re.findall(r"^  (\w+) +([\d.]+) MB$", said, re.M)}
        self.assertAlmostEqual(plan[1]["moments"], plan[0]["moments"] / 4, delta=0.051)  # printed to 0.1
        self.assertEqual(plan[1]["parameters"], plan[0]["parameters"])

    def stopped_on_four_goes_on_on_fewer(self, run, mpi):
        long = ("train.steps=3000", "checkpoint.every=100", "log.eval_every=1000")
        processes = self.start(4, run, *long, "train.zero=1", mpi=mpi)
        said = self.wait_for_step(processes[0], 120)
        if mpi and "Open MPI" in subprocess.run([MPIRUN, "--version"], capture_output=True, text=True).stdout:
            self.assertIn(f"to save and stop: kill -USR1 {processes[0].pid} (", said)
        # one rank, or mpirun, which hands it on; SIGTERM it answers by killing the ranks
        processes[-1].send_signal(signal.SIGUSR1)
        said, codes = self.finish(processes)
        self.assertEqual(set(codes), {75}, said)
        stopped = re.search(r"stopped on request at step (\d+), saved", said[0])
        self.assertTrue(stopped, said)
        step = int(stopped[1])
        self.assertLess(step, 3000)
        for ranks, zero in ((3, 1), (2, 0), (1, 0)):
            step += 5
            said = self.train(ranks, run, f"train.steps={step}", *long[1:], f"train.zero={zero}")
            self.assertEqual(said.count("resuming from step"), 1)
        self.assertEqual([row[0] for row in self.losses(run)[0]], list(range(1, step + 1)))

    def test_stopped_on_four_goes_on_on_fewer(self):
        self.stopped_on_four_goes_on_on_fewer("elastic", False)

    def test_stopped_under_mpirun(self):
        self.stopped_on_four_goes_on_on_fewer("elastic-mpi", True)

    @unittest.skipUnless(MPIRUN, "needs mpirun")
    def test_readme_starts_no_more_ranks_than_two_cores_have(self):
        """Its command's options where Open MPI has two slots, as on a machine with two cores; and what it says to do
        for more ranks."""
        text = (pathlib.Path(__file__).resolve().parent.parent.parent / "README.md").read_text()
        options = re.search(r"^mpirun (.+?) \S*/patrain ", text, re.M)[1].split()
        environment = {name: value
                       for name, value in ENVIRONMENT.items() if name != "OMPI_MCA_rmaps_base_oversubscribe"}
        self.assertIn("`--oversubscribe`", text)
        for line in (options, ["-n", "4", "--oversubscribe"]):
            done = subprocess.run([MPIRUN, "--host", "localhost:2", *line, "true"], env=environment,
                                  capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_an_error_of_one_rank_ends_all(self):
        (self.folder / "taken").write_text("a file where the run's directory should be")
        said, codes = self.finish(self.start(3, "taken"))
        self.assertEqual(codes, [1, 1, 1], said)
        self.assertRegex(said[0], "^(?s:.*)patrain: [^\n]*taken[^\n]*\n$")
        for other in said[1:]:
            self.assertRegex(other, "^patrain: communication: lost rank 0 [^\n]*\n$")
        if MPIRUN:
            said, codes = self.finish(self.start(3, "taken", mpi=True))
            self.assertEqual(codes, [1], said)
            self.assertEqual(said[0].count("patrain: "), 1, said[0])

    LONG = ("train.steps=400", "checkpoint.every=50", "log.eval_every=100")

    def lose_a_rank(self, run, rank, by, *arguments, mpi=False):
        """The processes of a run that has lost a rank, and that rank's place among them."""
        processes = self.start(3, run, *self.LONG, *arguments, mpi=mpi)
        self.wait_for_step(processes[0], 130)
        if mpi:
            below = ranks_below(processes[0].pid)
            self.assertEqual(len(below), 3)
            os.kill(below[rank], by)
        else:
            processes[rank].send_signal(by)
        return processes

    def go_on(self, run, mpi):
        """The same command resumes to the numbers of an uninterrupted run."""
        if not (self.folder / "undisturbed").exists():
            self.train(3, "undisturbed", *self.LONG)
        self.assertIn("resuming from step", self.train(3, run, *self.LONG, mpi=mpi))
        self.assert_same("undisturbed", run)

    def test_a_rank_that_is_killed(self):
        for rank in (0, 1):
            with self.subTest(rank=rank):
                processes = self.lose_a_rank(f"killed-{rank}", rank, signal.SIGKILL)
                said, codes = self.finish(processes)
                self.assertEqual(codes, [-9 if r == rank else 1 for r in range(3)], said)
                for r in {0, 1, 2} - {rank}:
                    told = [line for line in said[r].splitlines() if line.startswith("patrain:")]
                    self.assertEqual(len(told), 1, said[r])
                    self.assertIn(f"lost rank {rank}", told[0])
                self.go_on(f"killed-{rank}", False)

    def test_a_rank_that_is_killed_under_mpirun(self):
        said, codes = self.finish(self.lose_a_rank("killed-mpi", 1, signal.SIGKILL, mpi=True))
        self.assertNotEqual(codes, [0], said)
        self.go_on("killed-mpi", True)

    def test_a_rank_that_is_stopped(self):
        processes = self.lose_a_rank("silent", 1, signal.SIGSTOP, "train.timeout=10")
        named = []
        for r in (0, 2):
            said = processes[r].communicate(timeout=120)[1]
            self.assertEqual(processes[r].returncode, 1, said)
            named += SILENT.findall(said)
        # One that had rank 1's part of a sum awaits, in the next, the other as well, which waits for that part.
        self.assertEqual(len(named), 2)
        self.assertIn("1", named)
        self.assertTrue(set(named) <= {"1", "0, 1", "1, 2"}, named)
        processes[1].send_signal(signal.SIGCONT)  # and finds that the others have left
        self.assertIn("lost rank", processes[1].communicate(timeout=120)[1])
        self.assertEqual(processes[1].returncode, 1)
        self.go_on("silent", False)

    def test_a_rank_that_is_stopped_under_mpirun(self):
        said, codes = self.finish(self.lose_a_rank("silent-mpi", 1, signal.SIGSTOP, "train.timeout=10", mpi=True))
        self.assertNotEqual(codes, [0], said)
        named = SILENT.findall(said[0])
        self.assertEqual(len(named), 1, said)
        self.assertIn(named[0], ("1", "0, 1", "1, 2"))
        self.go_on("silent-mpi", True)

    # What keeps ranks from looking for each other for much longer than ten seconds; the file that says it has begun;
    # who is killed.
    BUSY = {"step": (("model.dim=256", "train.global_batch=3000", "train.micro_batch=1", "log.eval_every=0"),
                     "metrics.jsonl", 2),
            "evaluation": (("model.dim=256", "model.context=256", "model.prefix=64", "log.eval_pieces=0"),
                           "metrics.jsonl", 1),
            "save": (("train.steps=100000", "checkpoint.every=5", "log.eval_every=0"),
                     "checkpoints/*.tmp.*/model.safetensors*", 1)}

    def leave_within_ten_seconds(self, what, mpi):
        """A rank is killed while the others are busy; ten seconds later they are gone. This process does nothing but
        sleep meanwhile: by as much as the machine wakes it late, it may wake them late."""
        settings, begun, victim = self.BUSY[what]
        run = f"busy-{what}-{mpi}"
        disk = {"LD_PRELOAD": SHIM, "FAILING_FS": "fsync:model.safetensors:1:hang",
                "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"} if what == "save" else {}
        more = (f"data.validation={self.folder}/many.safetensors", "train.precision=fp32", *settings)
        processes = self.start(3, run, *more, mpi=mpi, environment=ENVIRONMENT | disk)
        while not list((self.folder / run).glob(begun)):
            self.assertIsNone(processes[0].poll())
            time.sleep(0.1)
        time.sleep(1)
        ranks = ranks_below(processes[0].pid) if mpi else [process.pid for process in processes]
        os.kill(ranks[victim], signal.SIGKILL)
        began, late = time.monotonic(), 0
        while any(process.poll() is None for process in processes) or any(map(is_there, ranks)):
            before = time.monotonic()
            time.sleep(0.1)
            late += time.monotonic() - before - 0.1
            self.assertLess(time.monotonic() - began, 10 + late)
        said, codes = self.finish(processes)
        self.assertNotIn(0, codes, said)
        if not mpi:
            for r in {0, 1, 2} - {victim}:
                self.assertEqual((codes[r], said[r].count("patrain: ")), (1, 1), said)

    def test_the_others_leave_within_ten_seconds(self):
        programs.write_tokens(self.folder / "many.safetensors", [60] * 6000, seed=3)
        for what in self.BUSY:
            for mpi in (False, True) if MPIRUN else (False,):
                with self.subTest(what=what, mpi=mpi):
                    self.leave_within_ten_seconds(what, mpi)

    def test_ranks_that_make_no_sense(self):
        for arguments, text in ((["--rank", "1"], "need --rendezvous FILE"),
                                (["--rendezvous", "x", "--rank", "2", "--world", "2"], "found 2")):
            done = programs.train(self.folder, "nonsense", *arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(text, done.stderr)

    def test_slurm_queues_a_stopped_run_again(self):
        """scripts/slurm.sh with a stand-in for srun, which starts two ranks and ends as the worse of them does, and for
        scontrol."""
        tools = self.folder / "slurm"
        tools.mkdir()
        srun = """[[ $1 == --kill-on-bad-exit=1 ]] || exit 9
            for rank in 0 1; do SLURM_PROCID=$rank SLURM_NTASKS=2 "${@:2}" & echo $! >> pids; each+=($!); done
            for process in "${each[@]}"; do wait "$process"; status=$?; ((status > worst)) && worst=$status; done
            exit $((worst))"""
        for name, text in (("srun", srun), ("scontrol", 'echo "$@" > requeued')):
            (tools / name).write_text("#!/usr/bin/env bash\n" + text + "\n")
            (tools / name).chmod(0o755)
        environment = ENVIRONMENT | {"PATH": f"{tools}:{ENVIRONMENT['PATH']}", "SLURM_JOB_ID": "42",
                                     "SLURM_SUBMIT_DIR": str(tools)}
        script = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts/slurm.sh"

        def start(steps):
            line = [script, *programs.command(self.folder, "slurm-run", f"train.steps={steps}", "checkpoint.every=0")]
            process = subprocess.Popen(line, env=environment, cwd=tools, stderr=subprocess.PIPE, text=True)
            self.addCleanup(process.stderr.close)
            return process

        process = start(3000)
        self.wait_for_step(process, 20)
        os.kill(int((tools / "pids").read_text().split()[1]), signal.SIGUSR1)
        said = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 75, said)
        self.assertEqual((tools / "requeued").read_text(), "requeue 42\n")
        step = int(re.search(r"stopped on request at step (\d+), saved", said)[1])
        (tools / "requeued").unlink()
        process = start(step + 3)
        said = process.communicate(timeout=120)[1]
        self.assertEqual(process.returncode, 0, said)
        self.assertIn(f"resuming from step {step}", said)
        self.assertFalse((tools / "requeued").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
