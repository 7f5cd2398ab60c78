#!/usr/bin/env python3
"""What `cmake --install` puts into a prefix: the binary runs from there, a program of one's own links the library by find_package(PiMoE) and trains
on two ranks, the environment module sets what it says, and the completion completes.

    tests/launch/packaging_test.py [unittest option ...]     PIMOE_BUILD, PIMOE_CMAKE, PIMOE_MPIRUN name what to test with
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve()
CMAKE = os.environ.get("PIMOE_CMAKE", "cmake")
MPIRUN = [os.environ.get("PIMOE_MPIRUN", "mpirun"), "--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]


def output(command, **options):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="pimoe-packaging-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.prefix = cls.folder / "prefix with a blank"
        output([CMAKE, "--install", BUILD, "--prefix", cls.prefix])

    def test_the_binary_runs_from_the_prefix(self):
        self.assertRegex(output([self.prefix / "bin/pimoe", "--version"]), r"^pimoe \d+\.\d+\.\d+\n$")
        printed = output([self.prefix / "bin/pimoe", "train", self.prefix / "share/pimoe/configs/quickstart.yaml",
                          "data.tokenizer=", "model.vocabulary=64", "--print-config"])
        self.assertIn("expert_parallel", printed)

    def test_a_program_links_the_library_and_trains(self):
        source = self.prefix / "share/pimoe/examples/moe_layer"
        build = self.folder / "example"
        output([CMAKE, "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}", "-DCMAKE_BUILD_TYPE=Release"])
        output([CMAKE, "--build", build])
        for ranks in (1, 2):
            losses = [float(loss) for loss in re.findall(r"loss (\S+)", output(MPIRUN + ["-n", ranks, build / "moe_layer"]))]
            self.assertEqual(len(losses), 4)
            self.assertLess(losses[-1], 0.3 * losses[0])

    def test_short_programs_create_track_quantize_prune_and_serve(self):
        source = self.prefix / "share/pimoe/examples/short"
        for program in source.glob("*.cpp"):
            self.assertLess(len(program.read_text().splitlines()), 40, program.name)
        build = self.folder / "short"
        output([CMAKE, "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}", "-DCMAKE_BUILD_TYPE=Release"])
        output([CMAKE, "--build", build, "-j2"])

        for ranks in (1, 2):
            created = output(MPIRUN + ["-n", ranks, build / "create"])
            before, after = (float(loss) for loss in re.findall(r"loss (\S+)", created))
            self.assertLess(after, before)

            tracked = output(MPIRUN + ["-n", ranks, build / "track"])
            for name in ("step", "step/forward", "step/backward"):
                self.assertRegex(tracked, rf"(?m)^{name} +20 x  mean ")
            times = json.loads(tracked.splitlines()[-1])
            self.assertGreaterEqual(times["step"]["total_seconds"], times["step/forward"]["total_seconds"] + times["step/backward"]["total_seconds"])

        before, after, error = re.search(r"(\d+) bytes -> (\d+), off by (\S+)", output([build / "quantize"])).groups()
        self.assertLess(int(after), 0.26 * int(before))
        self.assertGreater(float(error), 1e-4)
        self.assertLess(float(error), 0.02)

        pruned = output([build / "prune"])
        kept = [int(number) for number in re.search(r"experts that stay ((?:\s*\d+)+)\n", pruned).group(1).split()]
        self.assertEqual((len(kept), kept), (6, sorted(set(kept))))
        numbers, error = re.search(r"numbers left (\d+), off by (\S+)", pruned).groups()
        self.assertEqual(int(numbers), 6 * (64 + 3 * 64 * 128))
        self.assertGreater(float(error), 1e-3)
        self.assertLess(float(error), 1.0)

        pimoe = self.prefix / "bin/pimoe"
        text = self.folder / "text"
        text.mkdir()
        (text / "a.txt").write_text("".join(f"line {number}: the quick brown fox jumps over the lazy dog\n" for number in range(2000)))
        output([pimoe, "data", "build", "--output", "corpus", "--vocabulary", "300", "--validation", "0", "text"], cwd=self.folder)
        (self.folder / "tiny.yaml").write_text(
            "run: {directory: run}\ndata: {train: corpus, tokenizer: corpus.model}\n"
            "model: {layers: 2, width: 32, heads: 2, kv_heads: 2, sequence_length: 64, moe: {experts: 4, expert_width: 32}}\n"
            "train: {steps: 60, global_batch: 4, micro_batch: 4, precision: float32}\noptimizer: {learning_rate: 1e-2, warmup_steps: 5}\n")
        output([pimoe, "train", "tiny.yaml"], cwd=self.folder)
        generated = subprocess.run([pimoe, "generate", "--checkpoint", "run", "--prompt", "the quick", "--tokens", "24", "--temperature", "0"],
                                   cwd=self.folder, stdout=subprocess.PIPE, text=True, timeout=240, check=True).stdout
        for ranks in (1, 2):
            served = output(MPIRUN + ["-n", ranks, build / "serve", "run", "the quick"], cwd=self.folder)
            self.assertIn(served.strip(), generated)
            self.assertGreater(len(served.strip()), 8)
        self.assertEqual(subprocess.run([build / "serve"], capture_output=True, timeout=60).returncode, 64)

    def test_another_minor_version_is_refused(self):
        source = self.folder / "newer"
        source.mkdir()
        (source / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.25)\nproject(newer CXX)\nfind_package(PiMoE 0.99 REQUIRED)\n")
        done = subprocess.run([CMAKE, "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}"], capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("0.99", done.stderr)

    def test_the_module_sets_paths_of_the_prefix(self):
        modules = sorted((self.prefix / "share/pimoe/modulefiles/pimoe").iterdir())
        self.assertEqual(len(modules), 1)
        text = modules[0].read_text()
        self.assertTrue(text.startswith("#%Module"))
        self.assertNotRegex(text, r"@\w+@")
        # Environment Modules and Lmod run the file as Tcl with these commands defined.
        paths = dict(re.findall(r'(?m)^(?:prepend-path|setenv)\s+(\S+)\s+"([^"]+)"', text))
        self.assertEqual(paths["PATH"], str(self.prefix / "bin"))
        self.assertTrue((pathlib.Path(paths["PIMOE_BUILD"]) / "pimoe").exists())
        self.assertTrue((pathlib.Path(paths["PIMOE_HOME"]) / "launch/slurm.sbatch").exists())
        self.assertTrue((pathlib.Path(paths["XDG_DATA_DIRS"]) / "bash-completion/completions/pimoe").exists())

    def test_the_launch_scripts_find_the_installed_binary(self):
        environment = dict(os.environ, PIMOE_BUILD=str(self.prefix / "bin"))
        done = subprocess.run([self.prefix / "share/pimoe/launch/supervise.sh", "-n", "1", "--attempts", "1", self.folder / "missing.yaml"],
                              env=environment, capture_output=True, text=True, timeout=120)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("missing.yaml", done.stdout + done.stderr)
        self.assertNotIn("is not there. Build it", done.stdout + done.stderr)

    def complete(self, *lines):
        """What each line completes to, one after the other in the same shell, and how often that ran the binary."""
        calls = self.folder / "calls"
        calls.write_text("")
        counted = self.folder / "counted"
        counted.mkdir(exist_ok=True)
        (counted / "pimoe").write_text(f'#!/bin/sh\necho "$*" >>"{calls}"\nexec "{self.prefix}/bin/pimoe" "$@"\n')
        (counted / "pimoe").chmod(0o755)
        script = f"""source "{self.prefix}/share/bash-completion/completions/pimoe"
            compopt() {{ :; }}
            for COMP_LINE; do
              COMP_POINT=${{#COMP_LINE}}
              read -ra COMP_WORDS <<<"$COMP_LINE"
              [[ $COMP_LINE != *" " ]] || COMP_WORDS+=("")
              COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
              _pimoe && echo "${{COMPREPLY[@]}}"
            done"""
        environment = dict(os.environ, PATH=f"{counted}:{os.environ['PATH']}")
        said = output(["bash", "-c", script, "bash", *lines], env=environment, cwd=self.prefix / "share/pimoe").splitlines()
        self.assertEqual(len(said), len(lines))
        return [line.split() for line in said], calls.read_text().splitlines()

    def test_completion(self):
        (train, checkpoint, printing, verifying, file, key, value), _ = self.complete(
            "pimoe tr", "pimoe checkpoint ", "pimoe train --", "pimoe checkpoint verify --", "pimoe train configs/quick",
            "pimoe train configs/quickstart.yaml model.moe.router.t", "pimoe train configs/quickstart.yaml data.train=confi")
        self.assertEqual(train, ["train"])
        self.assertTrue({"list", "verify", "diff", "extract", "reshard"} <= set(checkpoint))
        self.assertIn("--print-config", printing)
        self.assertIn("--json", verifying)
        self.assertEqual(file, ["configs/quickstart.yaml"])
        self.assertIn("model.moe.router.temperature=", key)
        self.assertEqual(value, ["configs"])

    def helps(self, *command):
        """Every subcommand with its help, those of subcommands too."""
        text = output([self.prefix / "bin/pimoe", *command, "--help"])
        yield command, text
        for name in re.findall(r"(?m)^  ([a-z]+) ", text.partition("\nSubcommands:\n")[2].partition("\n\n")[0]):
            yield from self.helps(*command, name)

    def test_completion_and_help_know_every_subcommand_and_option(self):
        helps = dict(self.helps())
        self.assertGreater(len(helps), 20)
        completed, calls = self.complete(*(" ".join(("pimoe", *command, "--")) for command in helps), *(" ".join(("pimoe", *command)) for command in helps if command))
        for (command, text), options in zip(helps.items(), completed):
            with self.subTest(command=command):
                self.assertEqual(set(options), set(re.findall(r"--[a-z][a-z-]*", text)))
                self.assertIn("Example", text)
                lines = text.splitlines()
                for line, following in zip(lines, lines[1:]):
                    if re.match(r"  (-\w,)?--", line):  # what an option means stands in a column of its own, beside it or below
                        self.assertTrue(line[30:].strip() or following.startswith(" " * 30) and following.strip(), line)
        for command, names in zip((command for command in helps if command), completed[len(helps):]):
            self.assertIn(command[-1], names)
        self.assertEqual(len(calls), len(set(calls)), "asked the binary twice for the same")

    def test_the_spack_recipe_names_every_library(self):
        names = {"mpi.h": "mpi", "hdf5.h": "hdf5", "openssl/evp.h": "openssl", "yaml-cpp/yaml.h": "yaml-cpp", "spdlog/spdlog.h": "spdlog", "CLI/CLI.hpp": "cli11",
                 "nlohmann/json.hpp": "nlohmann-json", "sentencepiece_processor.h": "sentencepiece", "pcre2.h": "pcre2", "utf8proc.h": "utf8proc", "curl/curl.h": "curl",
                 "boost/beast.hpp": "boost", "zlib.h": "zlib-api", "zstd.h": "zstd", "gtest/gtest.h": "googletest"}
        recipe = (REPOSITORY / "launch/packaging/spack/spack_repo/pimoe/packages/pimoe/package.py").read_text()
        headers = re.findall(r"(?m)^[^#\n].*\bheader:(\S+)", (REPOSITORY / "launch/packages.txt").read_text())
        self.assertGreater(len(headers), 10)
        for header in headers:
            with self.subTest(header=header):
                self.assertRegex(recipe, rf'depends_on\("{names[header]}[@~"]')

    def test_containers_copy_what_an_installation_reads(self):
        """Every file of the repository that CMake's installation or the build names lies in what the definitions copy."""
        docker = set(re.findall(r"(?m)^!(\S+)", (REPOSITORY / ".dockerignore").read_text()))
        apptainer = re.findall(r"(?m)^  (\S+) /opt/pimoe-source/$", (REPOSITORY / "launch/packaging/apptainer.def").read_text())
        self.assertEqual(docker, set(apptainer))
        lists = "".join((REPOSITORY / name).read_text() for name in ("CMakeLists.txt", "cmake/Install.cmake"))
        named = set(re.findall(r"\$\{CMAKE_SOURCE_DIR\}/([\w.-]+)", lists)) | {"CMakeLists.txt", "launch"}
        self.assertTrue({"src", "third_party", "configs", "LICENSE"} <= named)
        self.assertEqual(named - docker, set())


if __name__ == "__main__":
    unittest.main()
