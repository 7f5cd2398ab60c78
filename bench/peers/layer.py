#!/usr/bin/env python3
"""One MoE layer of a peer, as bench/compare.py asks for it. Prints one JSON line.

    layer.py make --case SHAPE FOLDER                    writes a case for tests/interop/moe_block.cpp, which puts its results beside it
    layer.py PEER [--case SHAPE FOLDER] [--time SHAPE]   {"differences": {what: |theirs - ours| / |ours|, Frobenius norms},
                                                          "cases": {routing: {"seconds", "kept_bytes", "maxvio"}}}

SHAPE is JSON with tokens, width, expert_width, experts, choices, renormalize. PEER: see moe_layers.py, or loop, the reference.
Needs torch, and the peer.
"""
import argparse
import json
import math
import pathlib
import statistics
import time

import torch

from moe_layers import PEERS, Loop

RESULTS = {"output": "output", "d tokens": "grad.tokens", "d router": "grad.moe.router.weight", "d gate_up": "grad.moe.experts.gate_up.weight",
           "d down": "grad.moe.experts.down.weight"}
FILES = {"router": "moe.router.weight", "gate_up": "moe.experts.gate_up.weight", "down": "moe.experts.down.weight"}


def build(name, shape, device):
    with torch.device(device):
        layer = {"loop": Loop, **PEERS}[name](shape)
        for parameter in layer.parameters():  # buffers stay as they are
            parameter.data = parameter.data.bfloat16()
            torch.nn.init.normal_(parameter, std=0.02)
    return layer.train()


def wanted_loads(routing, shape):
    """As bench/steered_router.cpp: Zipf's law with no expert given a token twice; None leaves the router as it is."""
    tokens, experts = shape["tokens"], shape["experts"]
    left = tokens * shape["choices"]
    if routing == "natural":
        return None
    if routing == "balanced":
        return [left / experts] * experts
    loads, weight = [], sum(1 / (expert + 1) for expert in range(experts))
    for expert in range(experts):
        loads.append(min(tokens, left / (expert + 1) / weight))
        left -= loads[-1]
        weight -= 1 / (expert + 1)
    return loads


@torch.no_grad()
def loads_of(layer, tokens, experts):
    return torch.bincount(layer.choose(tokens).reshape(-1), minlength=experts).double()


@torch.no_grad()
def steer(layer, tokens, wanted):
    """Moves the bias until loads are near `wanted`, each expert at a pace of its own, as bench/steered_router.cpp does."""
    wanted = torch.tensor(wanted, dtype=torch.float64, device=tokens.device)
    bias, before = torch.zeros_like(wanted), torch.zeros_like(wanted)
    pace = torch.full_like(wanted, 0.1 / len(wanted))
    least, best = math.inf, bias
    for _ in range(200):
        layer.bias().copy_(bias)
        missing = wanted - loads_of(layer, tokens, len(wanted))
        if (worst := missing.abs().max().item()) < least:
            least, best = worst, bias.clone()
        if least <= 0.02 * wanted.mean().item():
            break
        turned = missing * before
        pace *= torch.where(turned > 0, 1.3, torch.where(turned < 0, 0.5, 1.0))
        bias += pace * missing.sign()
        before = missing
    layer.bias().copy_(best)


def seconds_of(work, device, repetitions):
    """On a GPU by its events, repetitions queued one after the other, as PiMoE measures."""
    for _ in range(5 if device == "cuda" else 1):
        work()
    if device != "cuda":
        times = [time.perf_counter()]
        for _ in range(repetitions):
            work()
            times.append(time.perf_counter())
        return [end - begin for begin, end in zip(times, times[1:])]
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repetitions)]
    torch.cuda.synchronize()
    for begin, end in marks:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in marks]


def measure(layer, shape, device, repetitions):
    tokens = torch.randn(shape["tokens"], shape["width"], device=device).bfloat16().requires_grad_()
    gradient = torch.randn_like(tokens)

    def forget():
        tokens.grad = None
        for parameter in layer.parameters():
            parameter.grad = None

    def work():
        forget()
        layer(tokens).backward(gradient)

    results = {}
    for routing in ("natural", "balanced", "zipf"):
        layer.bias().zero_()
        if loads := wanted_loads(routing, shape):
            steer(layer, tokens.detach(), loads)
        result = {"seconds": statistics.median(seconds_of(work, device, repetitions)), "kept_bytes": None}
        forget()
        if device == "cuda":
            before = torch.cuda.memory_allocated()
            output = layer(tokens)
            result["kept_bytes"] = torch.cuda.memory_allocated() - before - output.nbytes
            del output
        reached = loads_of(layer, tokens, shape["experts"])
        result["maxvio"] = (reached.max() / reached.mean() - 1).item()
        results[routing] = result
    return results


def read(folder, name, like):
    return torch.frombuffer(bytearray((folder / f"{name}.f32").read_bytes()), dtype=torch.float32).view(like)


def write(folder, name, tensor):
    (folder / f"{name}.f32").write_bytes(tensor.detach().float().contiguous().numpy().tobytes())


def make(shape, folder):
    """Numbers that bfloat16 has, and tokens whose last choice is clear: what rounds a score differs between programs, and must not decide."""
    torch.manual_seed(1)
    tokens, width, expert_width, experts = (shape[key] for key in ("tokens", "width", "expert_width", "experts"))
    random = lambda *sizes: torch.randn(*sizes).bfloat16().float()
    router = random(experts, width) / 2 ** round(math.log2(width) / 2)
    many = random(4 * tokens, width)
    best = torch.topk(many @ router.T, min(shape["choices"] + 1, experts)).values
    clearest = (best[:, -2] - best[:, -1]).argsort(descending=True)[:tokens].sort().values
    write(folder, "tokens", many[clearest])
    write(folder, "gradient", random(tokens, width))
    write(folder, "bias", torch.zeros(experts))
    write(folder, FILES["router"], router)
    write(folder, FILES["gate_up"], random(experts, 2 * expert_width, width) / 2 ** round(math.log2(width) / 2))
    write(folder, FILES["down"], random(experts, width, expert_width) / 2 ** round(math.log2(expert_width) / 2))


def check(layer, shape, folder, device):
    sizes = {"router": (shape["experts"], shape["width"]), "gate_up": (shape["experts"], 2 * shape["expert_width"], shape["width"]),
             "down": (shape["experts"], shape["width"], shape["expert_width"])}
    for name, parts in layer.weights().items():
        begin = 0
        for parameter, where in parts:
            part = parameter.data[:, where]
            part.copy_(read(folder, FILES[name], sizes[name])[:, begin:begin + part.size(1)])
            begin += part.size(1)
    rows = (shape["tokens"], shape["width"])
    tokens = read(folder, "tokens", rows).to(device).bfloat16().requires_grad_()
    output = layer(tokens)
    output.backward(read(folder, "gradient", rows).to(output))
    theirs = {"output": output, "d tokens": tokens.grad}
    theirs |= {f"d {name}": torch.cat([parameter.grad[:, where] for parameter, where in parts], 1) for name, parts in layer.weights().items()}
    differences = {}
    for name, value in theirs.items():
        ours = read(folder, RESULTS[name], value.shape).to(device)
        differences[name] = ((value.float() - ours).norm() / ours.norm()).item()
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=["make", "loop", *PEERS])
    parser.add_argument("--case", nargs=2, metavar=("SHAPE", "FOLDER"))
    parser.add_argument("--time", type=json.loads, metavar="SHAPE")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args()
    result = {}
    if options.case:
        shape, folder = json.loads(options.case[0]), pathlib.Path(options.case[1])
        if options.peer == "make":
            make(shape, folder)
        else:
            result["differences"] = check(build(options.peer, shape, options.device), shape, folder, options.device)
    if options.time:
        torch.manual_seed(0)
        result["cases"] = measure(build(options.peer, options.time, options.device), options.time, options.device, options.repetitions)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
