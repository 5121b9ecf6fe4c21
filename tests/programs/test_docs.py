"""Every file and folder that a document or a source file names exists, and the links between documents resolve."""
import glob
import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SOURCES = (".c", ".h", ".cu", ".cuh", ".cpp", ".py", ".sh", ".txt", ".cmake", ".ini", ".json")
FOLDERS = "bench|cmake|configs|cpu|cuda|docs|host|include|scripts|tests|tokenizer"
# A path from the root that begins with one of our folders: "host/base/base.h", "cpu/simd_*.c", "bench/results/".
PATH = re.compile(rf"(?<![\w/.$}}-])((?:{FOLDERS})/[\w./*-]*[\w*/])")
# The name of one of our kinds of files, without a folder: "comm_join.c", "model.md".
NAME = re.compile(r"(?<![\w/.*<%$}{-])(\w[\w-]*\.(?:c|h|cu|cuh|md|ini))\b(?![\w/*(-])")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
# Names of examples, of what programs and the build write.
OTHERS = {"results.md", "C.ini", "CONFIG.ini", "config.ini", "pa_version.h", "pa_commit.h", "page_html.h", "serve_pages.h"}


def tracked() -> list[pathlib.Path]:
    """The files that git knows or would add; of an unpacked archive all that are not built."""
    try:
        listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                                capture_output=True, text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        listed = [str(p.relative_to(ROOT))
                  for p in ROOT.rglob("*") if p.relative_to(ROOT).parts[0] not in ("build", "runs", "data")]
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def comments(path: pathlib.Path, text: str) -> str:
    """The comments and quoted includes of C; the whole of any other file."""
    if path.suffix not in (".c", ".h", ".cu", ".cuh", ".cpp"):
        return text
    return "\n".join(re.findall(r"//.*|^#include \".*\"", text, re.M))


class DocsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = tracked()
        cls.names = {path.name for path in cls.files}
        documents = [path for path in cls.files if path.suffix == ".md"]
        sources = [path for path in cls.files if path.suffix in SOURCES and "golden" not in path.name
                   and path.name != "test_docs.py"]
        cls.documents = {path: path.read_text(encoding="utf-8") for path in documents}
        cls.texts = {**cls.documents, **{path: comments(path, path.read_text(encoding="utf-8")) for path in sources}}

    def check(self, find):
        """find(path, text): the names in a text that lead nowhere."""
        wrong = [f"{path.relative_to(ROOT)}: {name}" for path, text in self.texts.items() for name in find(path, text)]
        self.assertEqual([], wrong, "\n" + "\n".join(wrong))

    def test_paths_from_the_root_exist(self):
        self.assertGreater(len(self.texts), 100)
        def pattern(name):  # NAME and MODEL stand for any name
            return re.sub("NAME|MODEL", "*", name.rstrip("/."))
        self.check(lambda path, text: {name for name in PATH.findall(text.replace("\\*", "*"))
                                       if not glob.glob(pattern(name), root_dir=ROOT)})

    def test_names_of_files_exist(self):
        # elsewhere names are mostly those of files that the code makes
        described = (".md", ".c", ".h", ".cu", ".cuh", ".cpp")
        self.check(lambda path, text: {name for name in NAME.findall(text) if path.suffix in described
                                       and name not in self.names | OTHERS})

    def test_links_of_documents_resolve(self):
        links = [(path, link) for path, text in self.documents.items()
                 for link in LINK.findall(text) if "://" not in link]
        self.assertGreater(len(links), 10)
        wrong = [f"{path.relative_to(ROOT)}: {link}" for path, link in links if not (path.parent / link).exists()]
        self.assertEqual([], wrong, "\n" + "\n".join(wrong))

    def test_limits_name_tests(self):
        """In the last column of their tables, and in brackets."""
        tests = set(re.findall(r"^ *pa_(?:test|script)\((\w+)", (ROOT / "tests/CMakeLists.txt").read_text(), re.M))
        text = (ROOT / "docs/limits.md").read_text(encoding="utf-8")
        cells = [line.split("|")[-2] for line in text.splitlines() if line.startswith("|")]
        cells += re.findall(r"\((`\w+`)\)", text)
        named = {name for cell in cells for name in re.findall(r"`([a-z][a-z_0-9]*)`", cell)}
        self.assertGreater(len(named), 20)
        self.assertEqual(named - tests, set())


if __name__ == "__main__":
    unittest.main()
