#!/usr/bin/env python3
"""What README.md and docs/ tell people to type is true.

    tests/docs_test/docs_test.py [unittest option ...]      PIMOE_BUILD, PIMOE_MPIRUN name what to test with
    tests/docs_test/docs_test.py Guides                     the guides alone: minutes

Words: every command of pimoe in a code block has subcommands, options and configuration keys that the binary knows; every file that is named is there; every key and
every page can be found, and every header of a folder on the map of the code.
Guides: the ```sh blocks of docs/guides are run, in order, in a copy of the tree.
"""
import functools
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve()
PIMOE = BUILD / "pimoe"
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/**/*.md")])
GUIDES = sorted(REPOSITORY.glob("docs/guides/*.md"))


def name_of(page):
    return str(page.relative_to(REPOSITORY))


def code_lines(page):
    """Lines of indented and fenced code blocks with their numbers; continued ones joined."""
    fenced, pending = False, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        if not fenced and not line.startswith("    "):
            continue
        text = pending + line.strip()
        if text.endswith("\\"):
            pending = text[:-1] + " "
            continue
        pending = ""
        yield number, text


@functools.cache
def help_of(*command):
    return subprocess.run([PIMOE, *command, "--help"], capture_output=True, text=True, check=True).stdout


@functools.cache
def subcommands(*command):
    section = help_of(*command).partition("\nSubcommands:\n")[2].partition("\n\n")[0]
    return set(re.findall(r"(?m)^  ([a-z]+)", section))


@functools.cache
def keys():
    """Of the configuration, "train.steps"; those of groups of keys too."""
    printed = subprocess.run([PIMOE, "train", os.devnull, "data.train=x", "model.vocabulary=64", "--print-config"],
                             capture_output=True, text=True, check=True).stdout
    found, path = set(), []
    for line in printed.splitlines():
        if match := re.match(r"( *)([a-z_0-9]+):", line):
            path[len(match[1]) // 2:] = [match[2]]
            found.add(".".join(path))
    return found


def pimoe_words(line):
    """The words behind `pimoe` in a line that calls it, without redirections and comments; None for others."""
    line = re.sub(r"\s#.*", "", line)
    match = re.match(r"^(?:\w+=\S+ )*(?:(?:mpirun|srun|time|nohup)\b.*? )?(?:\S*/)?pimoe ([a-z-].*)$", line)
    return re.split(r"\s+", re.split(r" [|>&;]|&&", match[1])[0].strip()) if match else None


class Words(unittest.TestCase):
    def test_commands_are_known_to_the_binary(self):
        seen = 0
        for page in PAGES:
            for number, line in code_lines(page):
                words = pimoe_words(line)
                if not words or words[0].startswith("-"):
                    continue
                with self.subTest(page=name_of(page), line=number, text=line):
                    seen += 1
                    command = []
                    while words and subcommands(*command) and words[0] in subcommands(*command):
                        command.append(words.pop(0))
                    self.assertTrue(command, "no subcommand of pimoe")
                    options = set(re.findall(r"--[a-z][a-z-]*|-[a-z]\b", help_of(*command)))
                    for word in words:
                        if re.fullmatch(r"--[a-z][a-z-]*", word):
                            self.assertIn(word, options)
                        elif match := re.match(r"([a-z_]+(?:\.[a-z_0-9]+)+)=", word):
                            self.assertIn(match[1], keys())
        self.assertGreater(seen, 40)

    def test_keys_in_prose_exist(self):
        groups = {key.split(".")[0] for key in keys() if "." in key}
        for page in PAGES:
            for key in re.findall(r"`((?:%s)(?:\.[a-z_0-9]+)+)(?==|`|: )" % "|".join(sorted(groups)), page.read_text()):
                if key.split(".")[-1] in ("h", "cpp", "yaml", "md", "json", "py", "cu"):
                    continue
                with self.subTest(page=name_of(page), key=key):
                    self.assertIn(key, keys())

    def test_files_that_are_named_exist(self):
        folders = "src|tests|docs|launch|configs|bench|cmake|examples"
        for page in PAGES:
            text = page.read_text()
            names = re.findall(rf"`((?:{folders})/[\w./-]+?)`", text) + re.findall(rf"\b((?:docs|launch)/[\w/-]+\.(?:md|sh|svg|sbatch))\b", text)
            for name in (name for name in names if "NAME" not in name):
                with self.subTest(page=name_of(page), file=name):
                    self.assertTrue((REPOSITORY / name).exists() or list(REPOSITORY.glob(name + "*")))
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
                with self.subTest(page=name_of(page), link=link):
                    self.assertTrue((page.parent / link).exists())

    def test_every_key_is_on_a_page(self):
        code = [" ".join(re.findall(r"`[^`\n]+`", page.read_text()) + [line for _, line in code_lines(page)]) for page in PAGES]
        words = [set(re.findall(r"\w+", text)) for text in code]
        for key in sorted(keys()):
            with self.subTest(key=key):
                self.assertTrue(any(key in text for text in code) or any(set(key.split(".")[-2:]) <= named for named in words))

    def test_every_page_is_in_the_index(self):
        index = (REPOSITORY / "docs/README.md").read_text()
        for page in PAGES:
            if REPOSITORY / "docs" in page.parents and page.name != "README.md":
                with self.subTest(page=name_of(page)):
                    self.assertIn(f"({page.relative_to(REPOSITORY / 'docs')})", index)

    def test_the_map_names_every_header_of_its_folders_once(self):
        sections = re.findall(r"(?ms)^## src/(\w+)\n(.*?)(?=^## |\Z)", (REPOSITORY / "docs/map.md").read_text())
        self.assertGreaterEqual(len(sections), 6)
        for folder, text in sections:
            rows = re.findall(r"(?m)^\| [^|\n]+ \| (`[^|\n]+`) \|$", text)
            headers = [file.stem for file in (REPOSITORY / "src" / folder).iterdir() if file.suffix in (".h", ".cuh")]
            with self.subTest(folder=folder):
                self.assertEqual(sorted(re.findall(r"`(\w+)`", " ".join(rows))), sorted(headers))


class Guides(unittest.TestCase):
    """One test for each guide with blocks to run; made below."""

    @classmethod
    def setUpClass(cls):
        """The quickstart's corpus, which the guides begin with; of a few of its files where it must be made."""
        cls.corpora = pathlib.Path(tempfile.mkdtemp(prefix="pimoe-corpora-"))
        cls.addClassCleanup(shutil.rmtree, cls.corpora)
        ready = REPOSITORY / "data/quickstart"
        if (ready / "corpus.idx").exists():
            shutil.copytree(ready, cls.corpora / "quickstart")
            return
        (cls.corpora / "quickstart").mkdir()
        subprocess.run([PIMOE, "data", "build", "--output", cls.corpora / "quickstart/corpus", "--vocabulary", "4096", "--validation", "0.05",
                        "--include", "*.py", os.environ["PIMOE_TORCH_FOLDER"] + "/nn"], check=True, capture_output=True)

    def run_guide(self, guide):
        blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", guide.read_text())
        with tempfile.TemporaryDirectory(prefix="pimoe-guide-") as folder:
            copy = pathlib.Path(folder) / "pimoe"
            copy.mkdir()
            for name in ("examples", "docs", "README.md"):
                (copy / name).symlink_to(REPOSITORY / name)
            for name in ("configs", "launch"):
                shutil.copytree(REPOSITORY / name, copy / name)
            # Half of the work of its steps: that they run is what is to be seen.
            quickstart = copy / "configs/quickstart.yaml"
            text = quickstart.read_text()
            self.assertIn("sequence_length: 256", text)
            quickstart.write_text(text.replace("sequence_length: 256", "sequence_length: 128"))
            (copy / "launch/build.sh").write_text("#!/bin/sh\n# Built already: another configuration of the same folder would spoil it.\n")
            (copy / "build").symlink_to(BUILD)
            shutil.copytree(self.corpora, copy / "data")
            home = pathlib.Path(folder) / "bin"
            home.mkdir()
            launcher = home / "mpirun"  # as a user on a machine of their own: no root, as many ranks as one likes
            launcher.write_text(f'#!/bin/sh\nexec {shutil.which(os.environ.get("PIMOE_MPIRUN", "mpirun"))} --oversubscribe --bind-to none '
                                '--allow-run-as-root "$@"\n')
            launcher.chmod(0o755)
            environment = dict(os.environ, PATH=f"{home}:{os.environ['PATH']}", PIMOE_BUILD=str(BUILD))
            environment.setdefault("PIMOE_DEPS", str(REPOSITORY / ".deps"))
            for number, block in enumerate(blocks, 1):
                script = block.replace("/tmp/pimoe-", folder + "/")
                done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=copy, env=environment, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
                self.assertEqual(done.returncode, 0, f"block {number} of {name_of(guide)}:\n{block}\n{done.stdout[-4000:]}")


for page in GUIDES:
    if "```sh\n" in page.read_text():
        setattr(Guides, "test_" + page.stem, lambda self, page=page: self.run_guide(page))


if __name__ == "__main__":
    unittest.main()
