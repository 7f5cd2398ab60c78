"""Compares the MoE layer with the MoE blocks of Hugging Face transformers: same weights, same tokens, float32 on the CPU.

Each row of the table is a family at one shape, over several seeds and batches (one token among them): the worst relative difference
max|ours - theirs| / max|theirs| of each result, an expert's gradients on the expert's own scale. Chosen experts and loads are equal, or
the row fails. A second table takes wrong configurations on purpose and has to see a difference in each: a comparison that agrees with
everything proves nothing.

The router's gradient is a difference: of what a token's experts would add to the loss, weighed by the gates. Where they are nearly the same, and
where the only gate is 1, it cancels, so that it is measured on the scale of the largest such term, |gate * its gradient| * |token|, if
that is above its own.

Started by run.sh in its environment. Exits with 1 if anything disagrees, naming the first such layer.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import typing

import numpy
import torch
import transformers
from transformers.models.deepseek_v3 import modeling_deepseek_v3
from transformers.models.mixtral import modeling_mixtral
from transformers.models.olmoe import modeling_olmoe
from transformers.models.qwen3_moe import modeling_qwen3_moe

TOLERANCE = 1e-5
BATCHES = [(1, 1), (1, 7), (3, 5), (2, 33), (1, 257)]  # sequences, their length
MEMORY = ["fast", "balanced", "lean"]  # model.moe.memory: the same numbers by three ways, in turn
COLUMNS = ["output", "gates", "d tokens", "d router", "d gate_up", "d down", "d shared", "balance"]


@dataclasses.dataclass
class Shape:
    """A family's block, and the model.moe keys that are to give the same layer."""

    family: str
    experts: int
    choices: int
    width: int
    expert_width: int
    normalise: bool = True  # norm_topk_prob
    groups: int = 1  # n_group
    group_choices: int = 1  # topk_group
    shared: int = 0  # n_shared_experts
    bias: float = 0.0  # added to a random e_score_correction_bias
    router: dict = dataclasses.field(default_factory=dict)  # keys over those of the mapping
    note: str = ""

    def block(self):
        """Returns the block and the family's balance loss, or None where transformers has none."""
        common = {"hidden_size": self.width, "num_experts_per_tok": self.choices, "experts_implementation": "eager"}
        if self.family == "Mixtral":
            config = transformers.MixtralConfig(num_local_experts=self.experts, intermediate_size=self.expert_width, **common)
            return modeling_mixtral.MixtralSparseMoeBlock(config), modeling_mixtral.load_balancing_loss_func
        if self.family == "Qwen3-MoE":
            config = transformers.Qwen3MoeConfig(
                num_experts=self.experts, moe_intermediate_size=self.expert_width, norm_topk_prob=self.normalise, **common
            )
            return modeling_qwen3_moe.Qwen3MoeSparseMoeBlock(config), modeling_qwen3_moe.load_balancing_loss_func
        if self.family == "OLMoE":
            config = transformers.OlmoeConfig(
                num_experts=self.experts, intermediate_size=self.expert_width, norm_topk_prob=self.normalise, **common
            )
            return modeling_olmoe.OlmoeSparseMoeBlock(config), modeling_olmoe.load_balancing_loss_func
        config = transformers.DeepseekV3Config(
            n_routed_experts=self.experts,
            moe_intermediate_size=self.expert_width,
            n_shared_experts=self.shared,
            n_group=self.groups,
            topk_group=self.group_choices,
            norm_topk_prob=self.normalise,
            routed_scaling_factor=2.5,
            **common,
        )
        return modeling_deepseek_v3.DeepseekV3MoE(config), None

    def moe(self, memory):
        router = {"kind": "softmax", "renormalize": self.normalise}
        if self.family == "DeepSeek-V3":
            router |= {"kind": "sigmoid", "route_scale": 2.5, "groups": self.groups, "group_choices": self.group_choices, "group_top": 2}
        return {
            "experts": self.experts,
            "choices": self.choices,
            "expert_width": self.expert_width,
            "shared_width": self.shared * self.expert_width,
            "memory": memory,
            "router": router | self.router,
            "balance": {"switch_loss": 1.0, "z_loss": 0.0},
        }

    def text(self):
        extra = [f"G {self.groups} M {self.group_choices}"] if self.groups > 1 else []
        return ", ".join(extra + ([self.note] if self.note else []))


MIXTRAL = Shape("Mixtral", 8, 2, 64, 112)
OLMOE = Shape("OLMoE", 64, 8, 64, 32, normalise=False)
DEEPSEEK = Shape("DeepSeek-V3", 256, 8, 64, 16, groups=8, group_choices=4, shared=1)
DEEPSEEK_LARGER_GROUPS = Shape("DeepSeek-V3", 32, 6, 24, 40, groups=4, group_choices=2, shared=2, note="2 shared")
SHAPES = [  # the first of a family has the E and K, and the groups, of its best-known model
    MIXTRAL,
    Shape("Mixtral", 8, 2, 64, 112, router={"pre_softmax": False}, note="top-k, then softmax"),
    Shape("Mixtral", 4, 1, 16, 24),
    Shape("Mixtral", 6, 6, 24, 40),
    Shape("Qwen3-MoE", 128, 8, 64, 24),
    Shape("Qwen3-MoE", 10, 3, 20, 12),
    Shape("Qwen3-MoE", 5, 1, 8, 6, normalise=False, note="not normalised"),
    OLMOE,
    Shape("OLMoE", 7, 2, 12, 20, note="normalised"),
    DEEPSEEK,
    DEEPSEEK_LARGER_GROUPS,
    Shape("DeepSeek-V3", 32, 6, 24, 40, normalise=False, groups=4, group_choices=2, shared=1, note="not normalised"),
    Shape("DeepSeek-V3", 16, 4, 40, 24, groups=4, group_choices=2, shared=1, bias=-2.0, note="bias around -2"),
    Shape("DeepSeek-V3", 12, 3, 16, 20, shared=1),
    Shape("DeepSeek-V3", 16, 1, 20, 8, groups=4, group_choices=1, shared=1),
]


def no_bias(case):
    case.files["bias"].zero_()


def up_before_gate(case):
    case.files["moe.experts.gate_up.weight"] = case.files["moe.experts.gate_up.weight"].roll(case.shape.expert_width, 1)


def key(name, value):
    def change(case):
        case.moe["router"][name] = value

    return change


def balance(value):
    def change(case):
        case.moe["balance"]["switch_loss"] = value

    return change


WRONG = [  # what is wrong, and in which shape
    ("renormalize: false", MIXTRAL, key("renormalize", False)),
    ("up rows before gate rows", MIXTRAL, up_before_gate),
    ("switch_loss: 2, which is transformers' own unit at K = 2", MIXTRAL, balance(2.0)),
    ("renormalize: true", OLMOE, key("renormalize", True)),
    ("group_top: auto, which is K / M = 3", DEEPSEEK_LARGER_GROUPS, key("group_top", "auto")),
    ("groups: 1", DEEPSEEK, key("groups", 1)),
    ("route_scale: 1", DEEPSEEK, key("route_scale", 1.0)),
    ("no bias", DEEPSEEK, no_bias),
    ("kind: softmax", DEEPSEEK, key("kind", "softmax")),
]


@dataclasses.dataclass
class Case:
    """One layer on one batch: what moe_block gets, and what transformers made of the same."""

    shape: Shape
    seed: int
    batch: tuple
    moe: dict
    files: dict
    expected: dict
    folder: typing.Optional[pathlib.Path] = None

    def text(self):
        shape = self.shape
        return (
            f"{shape.family} E {shape.experts} K {shape.choices} D {shape.width} F {shape.expert_width} {shape.text()}, "
            f"seed {self.seed}, {self.batch[0]} x {self.batch[1]} tokens, memory {self.moe['memory']}"
        )


def make_case(shape, seed, batch, memory):
    torch.manual_seed(seed * 1000 + batch[0] * batch[1])
    block, balance_loss = shape.block()
    with torch.no_grad():
        for parameter in block.parameters():  # logits, hidden values and outputs of order one
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
        bias = torch.zeros(shape.experts)
        if shape.family == "DeepSeek-V3":
            bias = 0.3 * torch.randn(shape.experts) + shape.bias
            block.gate.e_score_correction_bias.copy_(bias)
    tokens = torch.randn(*batch, shape.width, requires_grad=True)
    gradient = torch.randn(*batch, shape.width)

    decided = {}
    block.gate.register_forward_hook(lambda module, inputs, result: decided.update(zip(["logits", "gates", "experts"], result)))
    output = block(tokens)
    decided["gates"].retain_grad()
    expected = {"output": output.detach(), "experts": decided["experts"], "gates": decided["gates"].detach()}
    if balance_loss is not None:
        # K at balance, where ours is 1: it counts slots over tokens, not over slots.
        loss = balance_loss((decided["logits"],), shape.experts, shape.choices, attention_mask=None) / shape.choices
        by_tokens, by_router = torch.autograd.grad(loss, [tokens, block.gate.weight], retain_graph=True)
        expected |= {"balance": loss.detach(), "balance.grad.tokens": by_tokens, "balance.grad.moe.router.weight": by_router}
    (output * gradient).sum().backward()
    by_gate = (decided["gates"] * decided["gates"].grad).detach().abs().amax(1)
    expected["router term"] = (by_gate * tokens.detach().reshape(-1, shape.width).abs().amax(1)).max()

    files = {"tokens": tokens.detach(), "gradient": gradient, "bias": bias}
    pairs = [("moe.router.weight", block.gate.weight), ("moe.experts.gate_up.weight", block.experts.gate_up_proj)]
    pairs += [("moe.experts.down.weight", block.experts.down_proj)]
    files |= {name: weight.detach().clone() for name, weight in pairs}
    expected |= {"grad." + name: weight.grad for name, weight in pairs}
    expected["grad.tokens"] = tokens.grad
    if shape.shared:
        shared = block.shared_experts
        files["moe.shared.gate_up.weight"] = torch.cat([shared.gate_proj.weight, shared.up_proj.weight]).detach()
        files["moe.shared.down.weight"] = shared.down_proj.weight.detach()
        expected["grad.moe.shared.gate_up.weight"] = torch.cat([shared.gate_proj.weight.grad, shared.up_proj.weight.grad])
        expected["grad.moe.shared.down.weight"] = shared.down_proj.weight.grad
    return Case(shape, seed, batch, shape.moe(memory), files, expected)


def run_ours(program, cases, folder):
    """Has moe_block run all cases; their results lie in case.folder."""
    for number, case in enumerate(cases):
        case.folder = folder / str(number)
        case.folder.mkdir()
        sizes = {"width": case.shape.width, "tokens": case.batch[0] * case.batch[1], "sequence_length": case.batch[1]}
        (case.folder / "case.yaml").write_text(json.dumps(sizes | {"moe": case.moe}))
        for name, tensor in case.files.items():
            tensor.contiguous().numpy().astype("<f4").tofile(case.folder / (name + ".f32"))
    subprocess.run([program] + [str(case.folder) for case in cases], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def ours(case, name, kind, like):
    suffix = {"<f4": ".f32", "<i4": ".i32", "<i8": ".i64"}[kind]
    return torch.from_numpy(numpy.fromfile(case.folder / (name + suffix), dtype=kind)).reshape(like)


def relative(actual, expected, scale=0.0):
    """max|actual - expected| / max|expected|, or over `scale` where that is larger; each expert by itself in tensors of three dimensions."""
    difference, values = (actual - expected).abs(), expected.abs()
    if expected.dim() == 3:
        difference, values = difference.amax((1, 2)), values.amax((1, 2))
    else:
        difference, values = difference.max(), values.max()
    # An expert without a token: both gradients are zeros.
    return torch.where(difference == 0, difference, difference / values.clamp_min(scale)).max().item()


def compare(case):
    """Returns the worst difference of each column, and what else is wrong or ''."""
    shape, expected = case.shape, case.expected
    count = case.batch[0] * case.batch[1]

    def read(name):
        return ours(case, name, "<f4", expected[name].shape)

    experts = ours(case, "experts", "<i4", (count, shape.choices)).long()
    gates = torch.zeros(count, shape.experts).scatter(1, experts, ours(case, "weights", "<f4", (count, shape.choices)))
    expected_gates = torch.zeros(count, shape.experts).scatter(1, expected["experts"], expected["gates"])
    load = torch.bincount(expected["experts"].reshape(-1), minlength=shape.experts)
    wrong = ""
    if not torch.equal(experts.sort(1).values, expected["experts"].sort(1).values):
        wrong = "other experts were chosen"
    elif not torch.equal(ours(case, "load", "<i8", (shape.experts,)), load):
        wrong = "the loads differ"

    worst = {"output": relative(read("output"), expected["output"]), "gates": relative(gates, expected_gates)}
    for column, name in [("d tokens", "tokens"), ("d gate_up", "moe.experts.gate_up.weight"), ("d down", "moe.experts.down.weight")]:
        worst[column] = relative(read("grad." + name), expected["grad." + name])
    name = "grad.moe.router.weight"
    worst["d router"] = relative(read(name), expected[name], expected["router term"].item())
    if shape.shared:
        shared = ["grad.moe.shared.gate_up.weight", "grad.moe.shared.down.weight"]
        worst["d shared"] = max(relative(read(name), expected[name]) for name in shared)
    if "balance" in expected:
        worst["balance"] = relative(read("balance"), expected["balance"])
        for name in ["balance.grad.tokens", "balance.grad.moe.router.weight"]:
            # Where every expert has every token, the loss is 1 whatever the router says.
            scale = expected["balance"].item() if shape.choices == shape.experts else 0.0
            worst["balance"] = max(worst["balance"], relative(read(name), expected[name], scale))
    return worst, wrong


def complaint(worst, wrong):
    """Returns '' where all agree (a NaN does not)."""
    return wrong or ", ".join(f"{name} by {value:.1e}" for name, value in worst.items() if not value <= TOLERANCE)


def results(program, cases):
    with tempfile.TemporaryDirectory(prefix="pimoe-interop.") as folder:
        run_ours(program, cases, pathlib.Path(folder))
        return [compare(case) for case in cases]


def row(cells, widths):
    print("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths)) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True, help="the program moe_block")
    parser.add_argument("--seeds", type=int, default=5, help="of each shape and batch (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = 1
    torch.set_num_threads(1)  # the products are too small to share out
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, float32, CPU; equal is {TOLERANCE:.0e} or less\n")

    disagreements = []
    widths = [11, 3, 1, 2, 3, 23, 6] + [max(len(name), 7) for name in COLUMNS] + [7]
    row(["family", "E", "K", "D", "F", "besides", "layers"] + COLUMNS + ["verdict"], widths)
    row(["-" * width for width in widths], widths)
    for shape in SHAPES:
        grid = [(seed, batch) for seed in range(arguments.seeds) for batch in BATCHES]
        cases = [make_case(shape, seed, batch, MEMORY[index % 3]) for index, (seed, batch) in enumerate(grid)]
        worst = {}
        verdict = "equal"
        for case, (differences, wrong) in zip(cases, results(arguments.program, cases)):
            for name, value in differences.items():
                worst[name] = numpy.maximum(worst.get(name, 0.0), value)  # keeps a NaN
            if complaint(differences, wrong):
                verdict = "DIFFERS"
                disagreements.append(f"{case.text()}: {complaint(differences, wrong)}")
        shown = [shape.family, shape.experts, shape.choices, shape.width, shape.expert_width, shape.text(), len(cases)]
        row(shown + [f"{worst[name]:.1e}" if name in worst else "" for name in COLUMNS] + [verdict], widths)

    print("\nWrong on purpose, so that a difference must be seen:\n")
    for what, shape, change in WRONG:
        case = make_case(shape, 0, BATCHES[-1], MEMORY[0])
        change(case)
        seen = complaint(*results(arguments.program, [case])[0])
        print(f"* {shape.family}, {what}: {seen or 'NOT SEEN'}", flush=True)
        if not seen:
            disagreements.append(f"{case.text()}: {what} was not seen")

    if disagreements:
        print(f"\n{len(disagreements)} disagreements, the first:\n  {disagreements[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
