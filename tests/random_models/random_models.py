#!/usr/bin/env python3
"""Models, layouts and precisions that nobody thought of, drawn at random, and what must hold of each.

    tests/random_models/random_models.py [QUESTION...] [--seed N] [--draws N]      default: every question, 8 draws from seed 1

    parity    a step of the layout = of one rank = of the plain float64 loop (`pimoe parity`)
    resume    some steps in one layout and the rest in another give the losses of a run that stayed in the first, within 1e-9
    texts     `generate` says the same with kept keys and values, without, and on several ranks; `evaluate` finds the same loss on them
    transfer  what `export` writes, `import` reads back: the same texts. What no family of transformers has is refused by name
    smaller   what `quantize` and `prune` write says the same on one rank and on several; what cannot become smaller is refused by name

A draw is a function of its number (seed, seed + 1, ...): the line of one that fails has all that is needed to see it again. A configuration that is refused
(exit code 78, with a message) is drawn again. Ends with 1 where something does not hold. PIMOE_BUILD (default: build) holds pimoe, PIMOE_MPIRUN names
another mpirun. A draw takes a second (parity) to a quarter of a minute (smaller).
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "faults"))
from workplace import LIMIT, MPIRUN, PIMOE

REFUSED = 78
NOT_POSSIBLE = (64, 65, 78)  # that a model cannot be exported, or be smaller, with a message that says why
STEPS = 6
CLOSE = 1e-9
PROMPTS = "the cat\nsat on 42 café and then the\nd\nthen then then then dog blue\n"


class Broken(Exception):
    """Something does not hold; says what."""


class Drawn:
    """A configuration, as keys of the command line, and ranks to run it on."""

    def __init__(self, number):
        self.number = number
        self.random = random.Random(number)
        self.keys = {}
        self.draw_attention()
        self.draw_experts()
        self.draw_balance()
        self.draw_training()
        self.ranks, self.keys["mesh.expert_parallel"] = self.layout()

    def one_of(self, *values):
        return self.random.choice(values)

    def maybe(self, share, **keys):
        if self.random.random() < share:
            self.keys.update({name.replace("__", "."): value for name, value in keys.items()})

    def layout(self):
        """Ranks and expert_parallel."""
        ranks = self.one_of(1, 2, 3, 4)
        experts = self.keys["model.moe.experts"]
        return ranks, self.one_of(*[each for each in range(1, ranks + 1) if ranks % each == 0 and experts % each == 0])

    def draw_attention(self):
        heads = self.one_of(1, 2, 3, 4, 6)
        head_width = self.one_of(2, 4, 6, 8, 10, 16)
        self.keys.update({"model.layers": self.one_of(1, 2, 3), "model.width": self.one_of(heads * head_width, 8, 12, 20, 33, 48), "model.heads": heads,
                          "model.sequence_length": self.one_of(1, 2, 3, 7, 16, 33, 64), "model.feed_forward_width": self.one_of(1, 8, 24, 50),
                          "model.tie_embeddings": self.one_of("true", "false"), "model.initial_deviation": self.one_of(0.02, 0.3)})
        if self.random.random() < 0.3:
            self.keys.update({"model.kv_heads": heads, "model.latent.kv_rank": self.one_of(4, 12), "model.latent.query_rank": self.one_of(0, 5),
                              "model.latent.plain_width": self.one_of(2, 8), "model.latent.rotary_width": self.one_of(2, 4, 8),
                              "model.latent.value_width": self.one_of(2, 6, 8, 14), "model.latent.interleaved": self.one_of("true", "false")})
        else:
            self.keys.update({"model.kv_heads": self.one_of(*[each for each in range(1, heads + 1) if heads % each == 0]), "model.head_width": head_width,
                              "model.qk_norm": self.one_of("true", "false"), "model.qk_norm_over": self.one_of("head", "projection"),
                              "model.qkv_bias": self.one_of("true", "false")})
        scaling = self.one_of("none", "none", "none", "linear", "yarn", "llama3", "dynamic")
        if scaling != "none":
            self.keys.update({"model.rotary.scaling": scaling, "model.rotary.factor": self.one_of(2, 4),
                              "model.rotary.original_length": 64 if scaling == "dynamic" else self.one_of(8, 32)})

    def draw_experts(self):
        experts = self.one_of(1, 2, 3, 4, 6, 8, 12, 24)
        choices = self.one_of(*[each for each in (1, 2, 3, 4, 8, experts) if each <= experts])
        kind = self.one_of("softmax", "softmax", "softmax", "sigmoid", "sigmoid", "expert_choice", "hash", "uniform")
        router = "model.moe.router."
        self.keys.update({"model.moe.experts": experts, "model.moe.choices": choices, "model.moe.expert_width": self.one_of(1, 3, 8, 24, 40),
                          "model.moe.first_dense_layers": self.one_of(0, 0, min(1, self.keys["model.layers"] - 1)),
                          "model.moe.memory": self.one_of("fast", "balanced", "lean"), "model.moe.exchange": self.one_of("auto", "rows", "tokens"),
                          "model.moe.rank_budget": self.one_of(0, 0, 0, 1.0, 1.5), router + "kind": kind, router + "renormalize": self.one_of("true", "false"),
                          router + "route_scale": self.one_of(1, 2.5), router + "temperature": self.one_of(1, 1, 1.7)})
        self.maybe(0.4, model__moe__shared_width=self.one_of(8, 17), model__moe__shared_gate=self.one_of("true", "false"))
        self.maybe(0.15, model__moe__fallback_width=self.one_of(4, 9))
        self.maybe(0.2, model__moe__validate=self.one_of("cheap", "full"), model__moe__exchange="auto")
        self.maybe(0.2, model__moe__router__projection=self.one_of(1, 5))
        self.maybe(0.2, model__moe__router__linear_bias="true")
        if kind == "softmax":
            self.keys[router + "pre_softmax"] = self.one_of("true", "false")
        groups = self.one_of(*[each for each in range(1, experts + 1) if experts % each == 0])
        used = self.one_of(*range(1, groups + 1))
        if kind in ("softmax", "sigmoid") and groups > 1 and used * (experts // groups) >= choices:
            self.maybe(0.5, model__moe__router__groups=groups, model__moe__router__group_choices=used, model__moe__router__group_score=self.one_of("sum", "max"))

    def draw_balance(self):
        balance = "model.moe.balance."
        self.keys.update({balance + "switch_loss": self.one_of(0, 0.01), balance + "sequence_loss": self.one_of(0, 1e-3),
                          balance + "step_loss": self.one_of(0, 0.01), balance + "z_loss": self.one_of(0, 1e-3)})
        if self.keys["model.moe.router.kind"] in ("softmax", "sigmoid"):
            self.keys[balance + "bias_rate"] = self.one_of(0, 1e-3)

    def draw_training(self):
        self.keys.update({"train.global_batch": self.one_of(1, 2, 3, 5, 8), "train.micro_batch": self.one_of(1, 2, 3),
                          "train.recompute": self.one_of("none", "moe", "full"), "train.threads": 1, "train.precision": "float64", "train.steps": STEPS,
                          "mesh.device": "cpu", "run.seed": self.random.randrange(10**6), "log.tensorboard": "false", "optimizer.warmup_steps": 2,
                          "optimizer.learning_rate": 0.002, "optimizer.schedule": "constant", "checkpoint.every_steps": self.one_of(0, 1, 2),
                          "checkpoint.asynchronous": self.one_of("true", "false"), "data.train": "corpus", "data.tokenizer": "corpus.model",
                          "model.vocabulary": 0, "data.document_mask": self.one_of("true", "false")})

    def words(self, **more):
        """key=value, with `more` instead of what was drawn."""
        keys = {**self.keys, **{name.replace("__", "."): value for name, value in more.items()}}
        return [f"{name}={value}" for name, value in keys.items()]


class Workshop:
    """A folder with a corpus, in which commands are run."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.commands = []  # of the present draw, to be typed again
        words = ["the", "cat", "sat", "on", "mat", "dog", "blue", "café", "ran", "42", "and", "then"]
        draw = random.Random(5)
        (self.folder / "text").mkdir()
        for name in range(5):
            lines = (" ".join(draw.choice(words) for _ in range(draw.randrange(1, 20))) for _ in range(300))
            (self.folder / "text" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        (self.folder / "prompts").write_text(PROMPTS)
        (self.folder / "c.yaml").write_text("{}\n")
        self.expect(1, "data", "build", "--output", "corpus", "--vocabulary", "290", "--validation", "0", "text")

    def run(self, ranks, *words):
        """The finished process of `pimoe WORDS` on so many ranks; one that does not end in time is Broken."""
        command = (MPIRUN + ["-n", str(ranks)] if ranks > 1 else []) + [str(PIMOE), *words]
        self.commands.append(" ".join(command))
        try:
            return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired as late:
            raise Broken(f"{words[0]} on {ranks} ranks has not ended after {LIMIT} seconds") from late

    def expect(self, ranks, *words):
        """What it prints; Broken unless it ends with 0."""
        done = self.run(ranks, *words)
        if done.returncode != 0:
            raise Broken(f"{words[0]} on {ranks} ranks ended with {done.returncode}: {told(done)}")
        return done.stdout

    def losses(self, run):
        records = [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]
        return {record["step"]: record["loss"] for record in records if "loss" in record and "step" in record}

    def remove(self, *names):
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def told(done):
    """The lines of errors of a finished process."""
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or done.stdout.splitlines()
    return "\n".join(lines[-5:])


def accepted(shop, ranks, command, words):
    """Runs `pimoe COMMAND c.yaml WORDS`; False where the configuration is refused, Broken where it fails."""
    done = shop.run(ranks, command, "c.yaml", *words)
    if done.returncode == REFUSED and "error: " in done.stderr:
        return False
    if done.returncode != 0:
        raise Broken(f"{command} on {ranks} ranks ended with {done.returncode}: {told(done)}")
    return True


def trained(shop, drawn, ranks, shards, *, run, **more):
    """Trains; False where the configuration is refused."""
    return accepted(shop, ranks, "train", drawn.words(run__directory=run, mesh__expert_parallel=shards, **more))


def parity(shop, drawn):
    precision = drawn.one_of("float64", "float64", "float32", "bfloat16", "float16")
    few = {} if precision in ("float64", "float32") else {"train__global_batch": 8}  # of one token or two a gradient is mostly what rounding left
    return accepted(shop, drawn.ranks, "parity", drawn.words(train__precision=precision, **few))


def resume(shop, drawn):
    ranks, shards = drawn.layout()
    step = drawn.one_of(*range(1, STEPS))
    whole = {"train__micro_batch": drawn.keys["train.global_batch"]}  # one micro-step in every layout: there they are equal
    if not trained(shop, drawn, drawn.ranks, drawn.keys["mesh.expert_parallel"], run="stayed", **whole):
        return False
    trained(shop, drawn, drawn.ranks, drawn.keys["mesh.expert_parallel"], run="moved", train__steps=step, **whole)
    trained(shop, drawn, ranks, shards, run="moved", **whole)
    stayed, moved = shop.losses("stayed"), shop.losses("moved")
    if sorted(stayed) != list(range(1, STEPS + 1)) or sorted(moved) != sorted(stayed):
        raise Broken(f"steps {sorted(stayed)} and {sorted(moved)}")
    apart = max(abs(stayed[each] - moved[each]) / abs(stayed[each]) for each in stayed)
    if not apart < CLOSE:
        raise Broken(f"losses are apart by {apart} after step {step} on {ranks} ranks, expert_parallel {shards}: {stayed} {moved}")
    return True


def of_a_run(shop, drawn):
    """Trains "run" shortly on the drawn layout; False where the configuration is refused."""
    drawn.keys["model.sequence_length"] = drawn.one_of(4, 16, 33)
    drawn.keys["data.validation"] = "corpus"
    if drawn.keys["model.moe.router.kind"] == "expert_choice":
        drawn.keys["model.moe.router.kind"] = "softmax"  # what an expert chooses depends on what is computed beside it
    return trained(shop, drawn, drawn.ranks, drawn.keys["mesh.expert_parallel"], run="run", train__steps=3, train__validation_batches=1)


def says(shop, ranks, run, *options):
    return shop.expect(ranks, "generate", run, "--prompts", "prompts", "--temperature", "0", "--tokens", "12", "--json", *options)


def must_be_the_same(what, one, other):
    if one != other:
        raise Broken(f"{what}:\n{one}\n{other}")


def texts(shop, drawn):
    if not of_a_run(shop, drawn):
        return False
    ranks = drawn.one_of(2, 3, 4)
    usual = says(shop, 1, "run")
    must_be_the_same("texts without kept keys and values", usual, says(shop, 1, "run", "--no-cache"))
    must_be_the_same(f"texts of {ranks} ranks", usual, says(shop, ranks, "run", "--batch", "1"))
    one, several = (json.loads(shop.expect(count, "evaluate", "run", "--batches", "2", "--json"))["loss"] for count in (1, ranks))
    if abs(one - several) > CLOSE * one:
        raise Broken(f"evaluate finds {one}, and on {ranks} ranks {several}")
    return True


def transfer(shop, drawn):
    if not of_a_run(shop, drawn):
        return False
    done = shop.run(1, "export", "run", "--output", "exported", "--dtype", "float64")
    if done.returncode in NOT_POSSIBLE and "cannot be exported" in done.stderr:
        return True
    if done.returncode != 0:
        raise Broken(f"export ended with {done.returncode}: {told(done)}")
    shop.expect(drawn.one_of(1, 2), "import", "exported", "--output", "imported", "--sequence-length", str(drawn.keys["model.sequence_length"]))
    must_be_the_same("texts of what was exported and imported", says(shop, 1, "run"), says(shop, 1, "imported", "--tokenizer", "corpus.model"))
    return True


def smaller(shop, drawn):
    if not of_a_run(shop, drawn):
        return False
    ranks = drawn.one_of(2, 3, 4)
    kind = drawn.one_of("dynamic", "static", "weight_only")
    parts = drawn.one_of("experts", "experts,attention,dense", "experts,router,attention,dense")
    calibration = ["--calibration", "corpus", "--samples", "8"]
    made = {"int8": ["quantize", "run", "--output", "int8", "--kind", kind, "--parts", parts, *(calibration if kind == "static" else [])],
            "pruned": ["prune", "run", "--output", "pruned", "--kind", drawn.one_of("experts", "channels", "merge"), "--ratio", str(drawn.one_of(0.1, 0.3, 0.5)),
                       *calibration]}
    for run, words in made.items():
        done = shop.run(1, *words)
        if run == "pruned" and done.returncode in NOT_POSSIBLE and "error: " in done.stderr:
            continue
        if done.returncode != 0:
            raise Broken(f"{words[0]} ended with {done.returncode}: {told(done)}")
        must_be_the_same(f"texts of {run} on {ranks} ranks", says(shop, 1, run), says(shop, ranks, run))
    return True


QUESTIONS = {"parity": parity, "resume": resume, "texts": texts, "transfer": transfer, "smaller": smaller}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--seed", type=int, default=1, help="number of the first draw")
    parser.add_argument("--draws", type=int, default=8, help="configurations for each question, without those that are refused")
    options = parser.parse_args()
    for question in options.questions:
        if question not in QUESTIONS:
            parser.error(f"{question} is no question: {', '.join(QUESTIONS)}")
    if not PIMOE.exists():
        parser.error(f"{PIMOE} must be there: `launch/build.sh pimoe` builds it; PIMOE_BUILD names another build")
    failures = 0
    with tempfile.TemporaryDirectory(prefix="pimoe-random-", ignore_cleanup_errors=True) as folder:
        shop = Workshop(folder)
        for question in options.questions or QUESTIONS:
            held, failed, refused, number = 0, 0, 0, options.seed - 1
            while held + failed < options.draws:
                number += 1
                drawn = Drawn(number)
                shop.commands = []
                shop.remove("run", "stayed", "moved", "exported", "imported", "int8", "pruned")
                try:
                    if QUESTIONS[question](shop, drawn):
                        held += 1
                    else:
                        refused += 1
                except Broken as broken:
                    failed += 1
                    print(f"{question}, draw {number} (--seed {number} --draws 1): {broken}\n  " + "\n  ".join(shop.commands), flush=True)
                if refused > 20 + 4 * options.draws:
                    sys.exit(f"random_models: {question}: {refused} configurations were refused: what is drawn must mostly be valid")
            failures += failed
            print(f"{question}: {held} of {options.draws} held, {refused} refused and drawn again", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
