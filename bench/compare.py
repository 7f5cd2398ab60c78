#!/usr/bin/env python3
"""One GPU's work by us and by other programs, turn by turn in one run: a MoE layer forward and backward, and whole training steps, in bfloat16.

    bench/compare.py --peer-path peers/site                                   every row, two rounds
    bench/compare.py --rows layer --shapes qwen3,olmoe --peers torch,transformers --rounds 3
    bench/compare.py --rows model --shapes mixtral --peers eager,compile,liger --micro-batch 4
    bench/compare.py --show --chart docs/compare_gpu.svg                      what is in bench/results, as tables and as a picture
    bench/compare.py --tiny --device cpu --peer-python venv/bin/python --peers torch,transformers,eager --results tried

The other Python needs torch and transformers; --peer-path is a folder with more packages for it. A turn is a process of its own, with warm-up and a
median. Before a layer of a peer is timed it must give our output and gradients; a model's first loss must be that of fresh weights. What fails is listed with its error.
Writes gpu-ROW-SHAPE.json to bench/results. docs/bench.md says what is compared.
"""
import argparse
import json
import os
import pathlib
import shlex
import sys
import tempfile

from compare_report import print_table, print_summary, write_chart
from comparison import ROOT, check_first_loss, end_children_too, output_of, take_turns

SHAPES = {
    "qwen3": dict(config="gpu_qwen3_6layer", layers=6, width=2048, expert_width=768, experts=128, choices=8, heads=32, kv_heads=4, head_width=128,
                  vocabulary=151936, renormalize=True, layer_sequences=8),
    "olmoe": dict(config="gpu_olmoe_8layer", layers=8, width=2048, expert_width=1024, experts=64, choices=8, heads=16, kv_heads=16, head_width=128,
                  vocabulary=50304, renormalize=False, layer_sequences=8),
    "mixtral": dict(config="gpu_mixtral_3layer", layers=3, width=4096, expert_width=14336, experts=8, choices=2, heads=32, kv_heads=8, head_width=128,
                    vocabulary=32000, renormalize=True, layer_sequences=4),
}
SEQUENCES, POSITIONS = 8, 4096  # of a step
TINY = dict(layers=2, width=64, expert_width=64, experts=8, choices=2, heads=4, head_width=16, vocabulary=512)
LAYER_PEERS = ["torch", "transformers", "torchtitan", "scattermoe", "liger"]
MODEL_PEERS = {"eager": [], "compile": ["--compile"], "liger": ["--liger"], "liger-compile": ["--liger", "--compile"]}
ALWAYS = [*LAYER_PEERS, "eager", "compile"]  # where --peers says nothing
TOLERANCE = 0.02  # of a result's norm: bfloat16 rounds by up to 0.004, several times on the way


def shape_of(name, tiny):
    shape = {"family": name, "positions": POSITIONS, "sequences": SEQUENCES, **SHAPES[name]}
    if tiny:
        shape |= {"positions": 64, **TINY, "kv_heads": 4 if shape["kv_heads"] == shape["heads"] else 2}
    return shape | {"tokens": shape["layer_sequences"] * shape["positions"]}


def layer_flop(shape):
    return 18 * shape["tokens"] * shape["choices"] * shape["width"] * shape["expert_width"]


def step_flop(shape):
    """Megatron's count, as model/flops.h: causal attention halved, no router."""
    heads = shape["heads"] * shape["head_width"]
    attention = 2 * shape["width"] * (heads + shape["kv_heads"] * shape["head_width"])
    experts = 3 * shape["choices"] * shape["width"] * shape["expert_width"]
    token = 6 * (shape["layers"] * (attention + experts) + shape["width"] * shape["vocabulary"]) + 6 * shape["layers"] * heads * shape["positions"]
    return token * shape["sequences"] * shape["positions"]


class Programs:
    """Us and the peers, as they are run here."""

    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        cache = pathlib.Path(options.cache or scratch / "cache").absolute()
        path = [str(pathlib.Path(options.peer_path).absolute())] if options.peer_path else []
        # What the first turn compiled and tuned, the second one finds.
        self.peer_environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path + [each for each in [os.environ.get("PYTHONPATH")] if each]),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TRITON_CACHE_DIR": str(cache / "triton"), "TRITON_CACHE_AUTOTUNING": "1",
            "HF_HUB_OFFLINE": "1"}

    def ours(self, suite, shape):
        """@returns the document of `pimoe bench`"""
        sequences, at_once = (shape["layer_sequences"],) * 2 if suite == "layer" else (shape["sequences"], self.options.micro_batch)
        keys = {f"model.{key}": shape[key] for key in ("layers", "width", "heads", "kv_heads", "head_width", "vocabulary")}
        keys |= {f"model.moe.{key}": shape[key] for key in ("experts", "choices", "expert_width")}
        keys |= {"model.moe.router.renormalize": str(shape["renormalize"]).lower(), "model.sequence_length": shape["positions"],
                 "train.global_batch": sequences, "train.micro_batch": at_once, "train.precision": "bfloat16",
                 "mesh.device": self.options.device, "run.directory": self.scratch / "run"}
        command = [self.options.pimoe, "bench", suite, str(ROOT / "configs" / f"{shape['config']}.yaml"), *(f"{key}={value}" for key, value in keys.items()),
                   *self.options.set, "--seconds", str(self.options.seconds), "--json"]
        return json.loads(output_of(command, self.options.limit))

    def peer(self, script, *arguments):
        command = [self.options.peer_python, str(ROOT / "bench/peers" / script), *map(str, arguments), "--device", self.options.device]
        return json.loads(output_of(command, self.options.limit, self.peer_environment).splitlines()[-1])


def our_turn(document, suite, flop):
    rows = [row for row in document["rows"] if row["suite"] == suite]
    if suite == "layer":
        cases = {row["name"]: {"seconds": row["median_seconds"], **{key: row[key] for key in ("kept_bytes", "maxvio")}} for row in rows}
        counted = rows[0]["tflops"] * 1e12 * rows[0]["median_seconds"]
    else:
        cases = {"step": {"seconds": rows[0]["median_seconds"], **{key: rows[0][key] for key in ("peak_bytes", "kept_bytes", "parameters", "first_loss")}}}
        counted = rows[0]["tflops_megatron"] * 1e12 * rows[0]["tokens"] / rows[0]["tokens_per_second"]
    if abs(counted / flop - 1) > 1e-6:
        raise RuntimeError(f"pimoe counts {counted:.6e} FLOP, this script {flop:.6e}")
    gemm = max(row["best_tflops"] for row in document["rows"] if row["name"] == "gemm bfloat16")
    share = rows[0].get("mfu_megatron")
    return {"cases": cases, "gemm_tflops": gemm, "peak_tflops": rows[0]["tflops_megatron"] / share if share else None,
            **{key: document[key] for key in ("commit", "machine")}}


def refuse_other_results(differences):
    for name, value in differences.items():
        if not value <= TOLERANCE:
            raise RuntimeError(f"not the same result: {name} differs by {value:.1%} of its norm")


def make_case(programs, shape, folder):
    """A small layer by ours, for peers to be held against. @returns (arguments for layer.py, our differences from the reference), or None without moe_block"""
    if not os.path.exists(programs.options.moe_block):
        return None
    sizes = {key: shape[key] for key in ("choices", "renormalize")} | {"tokens": min(shape["tokens"], 1024), "width": min(shape["width"], 512)}
    sizes |= {"expert_width": min(shape["expert_width"], 256), "experts": min(shape["experts"], 64)}
    case = ["--case", json.dumps(sizes), str(folder)]
    programs.peer("layer.py", "make", *case)
    moe = {key: sizes[key] for key in ("experts", "choices", "expert_width")} | {"router": {"renormalize": sizes["renormalize"]}}
    (folder / "case.yaml").write_text(json.dumps({"width": sizes["width"], "tokens": sizes["tokens"], "sequence_length": sizes["tokens"], "moe": moe,
                                                  "device": programs.options.device, "precision": "bfloat16"}))  # JSON is YAML
    output_of([programs.options.moe_block, str(folder)], programs.options.limit)
    differences = programs.peer("layer.py", "loop", *case)["differences"]
    refuse_other_results(differences)
    return case, differences


def layer_turns(programs, shape, peers, folder):
    made = make_case(programs, shape, folder)
    case, agreed = (made[0], {"ours": made[1]}) if made else ([], {})

    def turn(peer):
        first = case if peer not in agreed else []
        sizes = {key: shape[key] for key in ("tokens", "width", "expert_width", "experts", "choices", "renormalize")}
        result = programs.peer("layer.py", peer, *first, "--time", json.dumps(sizes), "--repetitions", programs.options.repetitions)
        if first:
            agreed[peer] = result.pop("differences")
            refuse_other_results(agreed[peer])
        return result

    turns = {"ours": lambda: our_turn(programs.ours("layer", shape), "layer", layer_flop(shape))}
    return turns | {peer: lambda peer=peer: turn(peer) for peer in peers if peer in LAYER_PEERS}, agreed


def model_turns(programs, shape, peers):
    fits, agreed = {}, {}

    def checked(name, result):
        step = result["cases"]["step"]
        check_first_loss(step["first_loss"], shape["vocabulary"], shape["width"])
        agreed[name] = {key: step[key] for key in ("first_loss", "parameters")}
        if "ours" in agreed and abs(step["parameters"] / agreed["ours"]["parameters"] - 1) > 1e-3:
            raise RuntimeError(f"not the same model: {step['parameters']:,} parameters, ours has {agreed['ours']['parameters']:,}")
        return result

    def turn(peer):
        result = programs.peer("transformers_gpu.py", json.dumps(shape), *MODEL_PEERS[peer], "--micro-batch", fits.get(peer, programs.options.micro_batch))
        fits[peer] = result["cases"]["step"]["micro_batch"]
        return checked(peer, result)

    turns = {"ours": lambda: checked("ours", our_turn(programs.ours("model", shape), "model", step_flop(shape)))}
    return turns | {peer: lambda peer=peer: turn(peer) for peer in peers if peer in MODEL_PEERS}, agreed


def compare(options, row, name, scratch):
    """@returns what is written of a row, or None if ours failed"""
    shape, programs = shape_of(name, options.tiny), Programs(options, scratch)
    folder = pathlib.Path(tempfile.mkdtemp(dir=scratch))
    try:
        turns, agreed = layer_turns(programs, shape, options.peers, folder) if row == "layer" else model_turns(programs, shape, options.peers)
        describe = lambda result: ", ".join(f"{case} {1e3 * of['seconds']:.2f} ms" for case, of in result["cases"].items())
        results, errors = take_turns(f"{row} {name}", turns, options.rounds, describe)
        if "ours" in errors:
            raise RuntimeError(errors["ours"])
    except RuntimeError as error:
        print(f"compare: {row} {name}: ours: {error}", file=sys.stderr)
        return None
    first = results["ours"][0]
    record = {"row": row, "name": name, "shape": shape, "flop": layer_flop(shape) if row == "layer" else step_flop(shape),
              "machine": first["machine"], "commit": first["commit"], "command": shlex.join(sys.argv), "peak_tflops": first["peak_tflops"],
              "gemm_tflops": [turn["gemm_tflops"] for turn in results["ours"]], "agreed": agreed,
              "turns": {program: [turn["cases"] for turn in of] for program, of in results.items()}, "errors": errors}
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"gpu-{row}-{name}.json"
    left_out = set(json.loads(path.read_text())["turns"]) - set(record["turns"]) - set(errors) if path.exists() else set()
    if left_out:  # a record of fewer programs does not replace one of more
        path = path.with_name(f"partial-gpu-{row}-{name}.json")
        print(f"compare: {', '.join(sorted(left_out))} of the record before were not asked for: written to {path}", file=sys.stderr)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print_table(record)
    return record


def words(known):
    def read(text):
        chosen = text.split(",")
        if unknown := [each for each in chosen if each not in known]:
            raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(known)}")
        return chosen
    return read


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=words(["layer", "model"]), default=["layer", "model"], help="layer,model")
    parser.add_argument("--shapes", type=words(list(SHAPES)), default=list(SHAPES), help=",".join(SHAPES))
    parser.add_argument("--peers", type=words([*LAYER_PEERS, *MODEL_PEERS]), default=ALWAYS, help=f"of {','.join([*LAYER_PEERS, *MODEL_PEERS])}; else {','.join(ALWAYS)}")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="of our measurements, as of pimoe bench (1)")
    parser.add_argument("--repetitions", type=int, default=20, help="of a peer's layer (20)")
    parser.add_argument("--micro-batch", type=int, default=SEQUENCES, help="sequences at a time in a model; a peer that does not fit halves it (8)")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for one process (240)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of our configuration, over all else")
    parser.add_argument("--pimoe", default=str(ROOT / "build/pimoe"))
    parser.add_argument("--moe-block", default=str(ROOT / "build/tests/moe_block"), help="our layer on given weights; without it results are not compared")
    parser.add_argument("--peer-python", default="python3")
    parser.add_argument("--peer-path", help="a folder of packages for it")
    parser.add_argument("--cache", help="a folder that keeps what peers compile (default: for this run alone)")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "bench/results")
    parser.add_argument("--show", action="store_true", help="measures nothing")
    parser.add_argument("--chart", type=pathlib.Path, metavar="FILE.svg", help="of all that is in --results")
    options = parser.parse_args()
    if (options.tiny or options.device == "cpu") and not options.show and options.results == ROOT / "bench/results":
        parser.error("--tiny and --device cpu need --results: bench/results is for what was measured in full")
    return options


def main():
    options = parsed()
    end_children_too()
    read = lambda: [json.loads(path.read_text()) for path in sorted(options.results.glob("gpu-*.json"))]
    failed = 0
    if options.show:
        records = [record for record in read() if record["row"] in options.rows and record["name"] in options.shapes]
        for record in records:
            print_table(record)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            all_records = [compare(options, row, name, pathlib.Path(scratch)) for row in options.rows for name in options.shapes]
        records = [record for record in all_records if record]
        failed = len(all_records) - len(records)
    print_summary(records)
    if options.chart:
        write_chart(read(), options.chart)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
