#!/usr/bin/env python3
"""An installation as a stranger finds it: what is there, and examples/continue.c built against it, shared and static.

PA_BIN is the folder of the programs, PA_BUILD the build folder.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import programs

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = os.environ["PA_BUILD"]
PROGRAMS = ["paprep", "patrain", "paeval", "pagen"]
PROGRAMS += ["paserve"] if os.path.exists(os.path.join(os.environ["PA_BIN"], "paserve")) else []
CMAKE = """cmake_minimum_required(VERSION 3.24)
project(user C)
find_package(patrain 0.1 REQUIRED)
foreach(kind patrain static)
  add_executable(by_${kind} "@ROOT@/examples/continue.c")
  target_link_libraries(by_${kind} PRIVATE patrain::${kind})
endforeach()
"""


def run(*line, **options):
    done = subprocess.run([str(x) for x in line], capture_output=True, text=True, timeout=300, **options)
    if done.returncode:
        raise AssertionError(f"{done.args}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="patrain-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.prefix = cls.folder / "a prefix"
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)
        cls.library = next(cls.prefix.glob("lib*/**/libpatrain.so")).parent
        cls.environment = programs.environment(PKG_CONFIG_PATH=str(cls.library / "pkgconfig"),
                                               LD_LIBRARY_PATH=str(cls.library))
        programs.make_corpus(cls.folder)
        run(cls.prefix / "bin/patrain", cls.folder / "tiny.ini", "--run-dir", cls.folder / "run", "train.steps=3",
            "checkpoint.every=3", "--device", "cpu")
        run(cls.prefix / "bin/paprep", "--decode", cls.folder / "validation.safetensors", cls.folder / "primer.mid")

    def flags(self, *options):
        """pkg-config's; its own quoting, as a shell undoes it."""
        line = run("pkg-config", *options, "patrain", env=self.environment)
        return run("sh", "-c", f"printf '%s\\n' {line}").splitlines()

    def play(self, program):
        out = self.folder / f"{program.name}.mid"
        run(program, self.folder / "run", self.folder / "primer.mid", out, env=self.environment)
        return out.read_bytes()

    def test_files(self):
        share = self.prefix / "share"
        for program in PROGRAMS:
            self.assertEqual(run(self.prefix / "bin" / program, "--version"), f"{program} 0.1.0\n")
            self.assertIn(f".TH {program} 1", (share / f"man/man1/{program}.1").read_text())
            run("bash", "-n", share / "bash-completion/completions" / program)
            self.assertTrue(
                (share / "zsh/site-functions" / f"_{program}").read_text().startswith(f"#compdef {program}\n"))
        for file in ("configs/v1.ini", "configs/v5.ini", "docs/model.md", "docs/library.md"):
            self.assertTrue((share / "patrain" / file).is_file(), file)
        self.assertTrue((share / "doc/patrain/LICENSE").is_file())

    def test_bash_completion(self):
        script = f"""source '{self.prefix}/share/bash-completion/completions/pagen'
        COMP_WORDS=(pagen --dev) COMP_CWORD=1; _pagen; echo "${{COMPREPLY[*]}}"
        COMP_WORDS=(pagen --device c) COMP_CWORD=2; _pagen; echo "${{COMPREPLY[*]}}" """
        self.assertEqual(run("bash", "-c", script), "--device\ncpu cuda\n")

    def test_symbols(self):
        shared, static = self.library / "libpatrain.so", self.library / "libpatrain.a"
        names = [line.split()[-1].split("@")[0]
                 for line in run("nm", "-D", "--defined-only", shared).splitlines() if " A " not in line]
        declared = sorted(
            set(run("grep", "-oE", r"\bpatrain_[a-z_]+\(", self.prefix / "include/patrain.h").replace("(", "").split()))
        self.assertEqual(sorted(names), declared)
        names = [line.split()[2]
                 for line in run("nm", "-g", "--defined-only", static).splitlines() if len(line.split()) == 3]
        self.assertEqual(sorted(names), declared)
        needed = run("readelf", "-d", shared)
        self.assertIn("libpatrain.so.0]", needed)
        self.assertNotIn("mpi", run("ldd", shared))

    def test_example(self):
        """All four ways to link: one piece of music."""
        source, made = ROOT / "examples/continue.c", {}
        run("cc", "-Wall", "-Werror", source, *self.flags("--cflags", "--libs"), "-o", self.folder / "pc_shared")
        static = [flag.replace("-lpatrain", "-l:libpatrain.a") for flag in self.flags("--cflags", "--libs", "--static")]
        run("cc", source, *static, "-o", self.folder / "pc_static")
        user = self.folder / "user"
        user.mkdir()
        (user / "CMakeLists.txt").write_text(CMAKE.replace("@ROOT@", str(ROOT)))
        run("cmake", "-S", user, "-B", user / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}")
        run("cmake", "--build", user / "build")
        for program in (self.folder / "pc_shared", self.folder / "pc_static", user / "build/by_patrain",
                        user / "build/by_static"):
            made[program.name] = self.play(program)
            self.assertEqual("libpatrain.so.0" in run("readelf", "-d", program), "static" not in program.name,
                             program.name)
        self.assertEqual(len(set(made.values())), 1)
        tokens, decoded = self.folder / "pagen.safetensors", self.folder / "pagen.mid"
        run(self.prefix / "bin/pagen", self.folder / "run", "--primer", self.folder / "primer.mid", "--length-tokens",
            500, "--output", tokens)
        run(self.prefix / "bin/paprep", "--decode", tokens, decoded)
        self.assertEqual(decoded.read_bytes(), made["pc_shared"])  # pagen's music is the library's
        events = run(self.prefix / "bin/paprep", "--events", self.folder / "by_static.mid").splitlines()
        primer = run(self.prefix / "bin/paprep", "--events", self.folder / "primer.mid").splitlines()
        self.assertGreater(len(events), len(primer) + 100)
        done = subprocess.run([self.folder / "pc_static", "none", "x", "y"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr),
                         (2, "continue: none: expected a model file, a checkpoint, a run directory or a model's name, "
                             "found nothing there; "
                             "no folder of models found\n"))

    def test_models(self):
        """Found by name, by programs and by programs that link the library."""
        models = self.prefix / "share/patrain/models"
        for file in (ROOT / "models").glob("*/*"):
            self.assertEqual((models / file.relative_to(ROOT / "models")).read_bytes(), file.read_bytes())
        (models / "tiny").mkdir(parents=True)
        self.addCleanup(shutil.rmtree, models / "tiny")
        shutil.copy(self.folder / "run/latest/model.safetensors", models / "tiny")
        said = run(self.prefix / "bin/pagen", "tiny", "--output", self.folder / "named.mid", "--length-tokens", 20,
                   cwd=self.folder)
        self.assertIn(str(models / "tiny/model.safetensors"), said)
        source = self.folder / "by_name.c"
        source.write_text("""#include <patrain.h>
#include <stdio.h>
int main(void) {
    patrain_model *m;
    patrain_error e;
    if (patrain_model_open(&m, "tiny", NULL, &e)) return printf("%s\\n", e.text), 1;
    puts(patrain_model_describe(m)->path);
    patrain_model_close(m);
}
""")
        run("cc", source, *self.flags("--cflags", "--libs"), "-o", self.folder / "by_name")
        self.assertEqual(run(self.folder / "by_name", env=self.environment), f"{models}/tiny/model.safetensors\n")

    def test_cpp(self):
        source = self.folder / "main.cpp"
        source.write_text('#include <patrain.h>\n#include <cstring>\n'
                          'int main() { return std::strcmp(patrain_version(), "0.1.0"); }\n')
        run("c++", "-Wall", "-Wextra", "-pedantic", "-Werror", source, *self.flags("--cflags", "--libs"), "-o",
            self.folder / "cpp")
        run(self.folder / "cpp", env=self.environment)


if __name__ == "__main__":
    unittest.main()
