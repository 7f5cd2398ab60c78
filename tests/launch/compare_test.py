#!/usr/bin/env python3
"""bench/compare.py and what it shares with bench/compare_cpu.py: turns, ratios of literal results, what is refused, tables and chart.

    tests/launch/compare_test.py [unittest option ...]     PIMOE_BUILD names a build: the last test measures with it, unless it is not there

pimoe, moe_block and the peers are stand-ins but for that test, whose peers do not run.
"""
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve()
sys.path.insert(0, str(REPOSITORY / "bench"))
import compare  # noqa: E402
import compare_report  # noqa: E402
import comparison  # noqa: E402

# Both write down that they were called; times are in the files that they are told of by the environment.
PIMOE = """#!/bin/bash
echo "ours $2" >>calls
cat "ours-$2.json"
"""
MOE_BLOCK = """#!/bin/bash
echo moe_block >>calls
grep -q '"precision": "bfloat16"' "$1/case.yaml"
"""
PEER = """#!/bin/bash
shift   # the script
echo "peer $*" >>calls
case "$*" in
  make*) echo '{}' ;;
  loop*) echo '{"differences": {"output": 0.004}}' ;;
  liger*) echo "some line" >&2; echo "RuntimeError: no kernel | here" >&2; exit 1 ;;
  transformers*--case*) echo '{"differences": {"output": 0.3}, "cases": {}}' ;;
  torch*) echo noise; cat peer-layer.json ;;
  *--compile*) sleep 60 ;;
  *) cat peer-model.json ;;
esac
"""


def our_document(suite, flop, seconds):
    ceiling = {"suite": "ceilings", "name": "gemm bfloat16", "best_tflops": 700.0}
    machine = {"gpu": "a GPU", "device": "a GPU"}
    common = {"suite": suite, "median_seconds": seconds, "kept_bytes": 2e9, "peak_bytes": 9e9}
    if suite == "layer":
        rows = [common | {"name": name, "tflops": flop / seconds / 1e12, "maxvio": 0.1} for name in ("natural", "balanced", "zipf")]
    else:
        rows = [common | {"name": "training step", "tokens": 512, "tokens_per_second": 512 / seconds, "tflops_megatron": flop / seconds / 1e12,
                          "mfu_megatron": flop / seconds / 1000e12, "parameters": 1000, "first_loss": 6.24}]
    return {"commit": "abc1234", "machine": machine, "rows": [ceiling, *rows, ceiling | {"best_tflops": 720.0}]}


class Turns(unittest.TestCase):
    def take(self, turns, rounds, *arguments):
        with contextlib.redirect_stderr(io.StringIO()) as self.said:
            return comparison.take_turns("row", turns, rounds, lambda result: f"took {result}", *arguments)

    def test_alternate(self):
        calls = []
        results, errors = self.take({name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}, 2)
        self.assertEqual((calls, results, errors), (["a", "b", "a", "b"], {"a": [1, 3], "b": [2, 4]}, {}))

    def test_say_what_each_took_at_once(self):
        def ended():
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            self.take({"a": lambda: 7, "b": ended}, 1)
        self.assertEqual(self.said.getvalue().splitlines(), ["row: a, round 1", "  took 7", "row: b, round 1"])

    def test_of_a_copy_without_history_have_an_unknown_commit(self):
        with tempfile.TemporaryDirectory() as folder:
            said = subprocess.run([sys.executable, "-c", f"import comparison, pathlib; comparison.ROOT = pathlib.Path({folder!r}); print(comparison.commit())"],
                                  cwd=REPOSITORY / "bench", env=os.environ | {"GIT_CEILING_DIRECTORIES": "/"}, capture_output=True, text=True, check=True)
        self.assertEqual(said.stdout, "unknown\n")

    def test_that_fail_are_named_and_not_asked_again_and_keep_what_they_had(self):
        calls = []

        def second_time():
            calls.append(0)
            if len(calls) > 1:
                raise RuntimeError("out of memory")
            return 7

        results, errors = self.take({"a": second_time}, 3)
        self.assertEqual((len(calls), results, errors), (2, {"a": [7]}, {"a": "out of memory"}))

    def test_that_are_not_wanted_are_left_out_from_the_second_round_on(self):
        results, _ = self.take({"a": lambda: 1, "b": lambda: 2}, 2, lambda name, results: name == "a")
        self.assertEqual(results, {"a": [1, 1], "b": [2]})

    def test_end_with_their_children_when_time_is_up(self):
        with self.assertRaisesRegex(RuntimeError, "no result within 1 s"):
            comparison.output_of(["bash", "-c", "sleep 30 & sleep 30"], timeout=1)

    def test_end_with_the_script_that_is_told_to_end(self):
        with tempfile.TemporaryDirectory() as folder:
            started = pathlib.Path(folder) / "started"
            code = ("import comparison; comparison.end_children_too(); "
                    f"comparison.output_of(['bash', '-c', 'echo $$ >{started}.new; mv {started}.new {started}; sleep 60'])")
            script = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY / "bench")
            while not started.exists():
                time.sleep(0.05)
            script.terminate()
            self.assertEqual(script.wait(timeout=30), 143)
            with self.assertRaises(ProcessLookupError):
                os.kill(int(started.read_text()), 0)

    def test_first_loss_is_that_of_fresh_weights(self):
        comparison.check_first_loss(6.3, 512, 64)  # ln 512 = 6.238
        comparison.check_first_loss(11.19, 32000, 4096)  # ln 32000 = 10.373
        for loss in (5.5, float("nan")):
            with self.assertRaises(RuntimeError):
                comparison.check_first_loss(loss, 512, 64)


def record(ours, peers):
    turns = {"ours": [{"step": {"seconds": each}} for each in ours]} | {name: [{"step": {"seconds": each}} for each in of] for name, of in peers.items()}
    return {"row": "model", "name": "olmoe", "flop": 6e14, "gemm_tflops": [590.0, 600.0], "turns": turns}


class Ratios(unittest.TestCase):
    def test_best_peer_over_ours_by_medians_of_turns(self):
        one = record([2.0, 2.2, 9.0], {"eager": [5.0, 6.0, 7.0], "compile": [4.4, 4.4, 4.4]})
        self.assertEqual(compare_report.best_peer(one, "step"), "compile")
        self.assertAlmostEqual(compare_report.ratio_of(one, "step"), 2.0)

    def test_limit_is_the_best_product_of_the_run(self):
        self.assertAlmostEqual(compare_report.share_of_limit(record([2.0], {}), "step"), 0.5)  # 6e14 / 6e14 = 1 s

    def test_without_a_peer_there_is_none(self):
        self.assertIsNone(compare_report.ratio_of(record([2.0], {}), "step"))

    def test_flop(self):
        shape = compare.shape_of("mixtral", tiny=False)
        self.assertEqual(compare.layer_flop(shape), 18 * 16384 * 2 * 4096 * 14336)
        # A token and layer: 2 x 4096 x (4096 + 1024) attention, 3 x 2 x 4096 x 14336 experts; the head; 32 heads of 128 over 4096 positions.
        token = 6 * (3 * (2 * 4096 * 5120 + 6 * 4096 * 14336) + 4096 * 32000) + 6 * 3 * 4096 * 4096
        self.assertEqual(compare.step_flop(shape), token * 8 * 4096)


class Comparing(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        for name, text in (("pimoe", PIMOE), ("moe_block", MOE_BLOCK), ("python", PEER)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        shape = compare.shape_of("olmoe", tiny=True)
        self.write("ours-layer", our_document("layer", compare.layer_flop(shape), 0.010))
        self.write("ours-model", our_document("model", compare.step_flop(shape), 0.100))
        self.write("peer-layer", {"cases": {name: {"seconds": 0.015, "kept_bytes": 3e9, "maxvio": 0.1} for name in ("natural", "balanced", "zipf")},
                                  "differences": {"output": 0.005}})
        self.write("peer-model", {"cases": {"step": {"seconds": 0.250, "first_loss": 6.3, "parameters": 1000, "micro_batch": 4, "peak_bytes": 8e9}}})

    def write(self, name, value):
        (self.folder / f"{name}.json").write_text(json.dumps(value))

    def run_compare(self, *arguments, code=0):
        command = [sys.executable, REPOSITORY / "bench/compare.py", "--tiny", "--shapes", "olmoe", "--pimoe", "./pimoe", "--moe-block", "./moe_block",
                   "--peer-python", "./python", "--results", "results", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def result(self, row):
        return json.loads((self.folder / f"results/gpu-{row}-olmoe.json").read_text())

    def test_layers_take_turns_and_other_results_are_refused(self):
        text = self.run_compare("--rows", "layer", "--peers", "torch,transformers,liger", "--chart", "chart.svg").stdout
        calls = [" ".join(line.split()[:2]) for line in (self.folder / "calls").read_text().splitlines()]
        self.assertEqual(calls, ["peer make", "moe_block", "peer loop", "ours layer", "peer torch", "peer transformers", "peer liger", "ours layer",
                                 "peer torch"])
        self.assertIn("| ours | 10 ms (10 to 10), ", text)
        self.assertIn("| within 0.4% of the float32 loop |", text)
        self.assertIn("| within 0.5% of ours |", text)
        self.assertIn("| transformers | failed: not the same result: output differs by 30.0% of its norm | | | |", text)
        self.assertIn("| liger | failed: RuntimeError: no kernel / here | | | |", text)
        self.assertIn("| best peer / ours | 1.50 (torch) | 1.50 (torch) | 1.50 (torch) | |", text)
        self.assertIn("layer: best peer / ours: minimum 1.50, geometric mean 1.50 (of 3)", text)
        written = self.result("layer")
        self.assertEqual([len(of) for of in written["turns"].values()], [2, 2])
        self.assertEqual((written["gemm_tflops"], written["commit"]), ([720.0, 720.0], "abc1234"))
        self.assertEqual(xml.etree.ElementTree.parse(self.folder / "chart.svg").getroot().tag, "{http://www.w3.org/2000/svg}svg")
        self.assertEqual(self.run_compare("--show").stdout, text)

    def test_without_moe_block_nothing_is_said_to_be_the_same(self):
        text = self.run_compare("--rows", "layer", "--peers", "torch", "--moe-block", "none").stdout
        self.assertEqual(text.count("| not checked |"), 2)

    def test_models(self):
        text = self.run_compare("--rows", "model", "--peers", "eager,compile", "--limit", "2").stdout
        self.assertIn("| compile | failed: no result within 2 s | |", text)
        self.assertIn("4 sequences at a time, 8 GB peak | 1,000 parameters, first loss 6.300 |", text)
        self.assertIn("| best peer / ours | 2.50 (eager) | |", text)
        self.assertIn("--micro-batch 4", (self.folder / "calls").read_text().splitlines()[-1], "what fitted is where the next turn begins")

    def test_another_model_is_refused(self):
        self.write("peer-model", {"cases": {"step": {"seconds": 0.2, "first_loss": 6.3, "parameters": 900, "micro_batch": 8, "peak_bytes": None}}})
        self.assertIn("| eager | failed: not the same model: 900 parameters, ours has 1,000 | |", self.run_compare("--rows", "model", "--peers", "eager").stdout)

    def test_ours_must_run_and_count_as_the_script_does(self):
        self.write("ours-model", our_document("model", 1.01 * compare.step_flop(compare.shape_of("olmoe", tiny=True)), 0.1))
        done = self.run_compare("--rows", "model", "--peers", "eager", code=1)
        self.assertIn("compare: model olmoe: ours: pimoe counts", done.stderr)
        self.assertFalse((self.folder / "results").exists())

    @unittest.skipUnless((BUILD / "pimoe").exists(), f"{BUILD} has no pimoe")
    def test_all_shapes_of_ours_at_tiny_sizes(self):
        text = self.run_compare("--shapes", ",".join(compare.SHAPES), "--pimoe", BUILD / "pimoe", "--device", "cpu", "--seconds", "0", "--rounds", "1",
                                "--peer-python", "/bin/false", "--moe-block", "none", "--peers", "torch,eager").stdout
        self.assertEqual(text.count("| ours |"), 2 * len(compare.SHAPES))
        self.assertEqual(text.count("| failed: status 1 |"), 2 * len(compare.SHAPES))


if __name__ == "__main__":
    unittest.main()
