"""Compares whole models with Hugging Face transformers: same weights, same tokens, float32 on the CPU, there and back.

Each row of the table is a tiny random model that transformers saved. `pimoe import` makes a run of it; its logits, loss, gradients and the 20
likeliest tokens after each of three prompts are compared, which transformers pads to one length and we do not; `pimoe export` writes it again,
whose tensors must have the same bytes, and whose logits in transformers must be within 1e-6. 50 steps of AdamW, ours and torch's, on the same
batches are compared loss by loss. Then `pimoe train` takes two steps from it, and what they left is exported and loaded. Differences are
max|ours - theirs| / max|theirs|, of training's losses |ours - theirs|. A second table takes wrong models on purpose and has to see a difference in
each.

Started by run.sh in its environment. Exits with 1 if anything disagrees.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy
import safetensors
import torch
import transformers

from tiny_models import MODELS, WRONG, first_of, load, make

TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-3
SAME_WEIGHTS = 1e-6  # that may lie elsewhere in memory, where torch's products take other paths
SEQUENCES, GENERATED = 3, 20
STEPS, BATCH, LEARNING_RATE = 50, 8, 2e-3


def tensors_of(folder):
    """Name -> dtype, shape and bytes of every tensor of a folder; merged experts as the single ones."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(file, "pt") as opened:
            for name in opened.keys():
                found[name] = opened.get_tensor(name)
    for name in [name for name in found if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj")]:
        stem, tensor = name.rsplit(".", 1)[0], found.pop(name)
        for expert in range(tensor.shape[0]):
            if name.endswith("down_proj"):
                found[f"{stem}.{expert}.down_proj.weight"] = tensor[expert]
            else:
                gate, up = tensor[expert].chunk(2)
                found[f"{stem}.{expert}.gate_proj.weight"] = gate
                found[f"{stem}.{expert}.up_proj.weight"] = up
    names = {".mlp.gate.weight": ".block_sparse_moe.gate.weight", ".mlp.experts.": ".block_sparse_moe.experts."}
    last = {"gate_proj.weight": "w1.weight", "up_proj.weight": "w3.weight", "down_proj.weight": "w2.weight"}
    if json.loads((folder / "config.json").read_text())["model_type"] == "mixtral":
        for name in list(found):
            new = name
            for old, by in names.items():
                new = new.replace(old, by)
            if ".experts." in new:
                for old, by in last.items():
                    new = new.replace(old, by)
            if new != name:
                found[new] = found.pop(name)
    return {name: (tensor.dtype, tuple(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes()) for name, tensor in found.items()}


def our_gradients(network):
    """Our parameters' names -> gradients of transformers'."""
    given = {name: parameter.grad for name, parameter in network.named_parameters()}
    result = {"embedding.weight": given["model.embed_tokens.weight"], "final_norm.weight": given["model.norm.weight"]}
    if "lm_head.weight" in given:
        result["head.weight"] = given["lm_head.weight"]
    latent = {"q_proj": "query", "q_a_proj": "query_down", "q_a_layernorm": "query_norm", "q_b_proj": "query_up"}
    latent |= {"kv_a_proj_with_mqa": "kv_down", "kv_a_layernorm": "kv_norm", "kv_b_proj": "kv_up"}
    for layer in range(network.config.num_hidden_layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        result[ours + "attention_norm.weight"] = given[theirs + "input_layernorm.weight"]
        result[ours + "feed_forward_norm.weight"] = given[theirs + "post_attention_layernorm.weight"]
        if theirs + "self_attn.kv_b_proj.weight" in given:
            for name, mine in latent.items():
                if f"{theirs}self_attn.{name}.weight" in given:
                    result[f"{ours}attention.{mine}.weight"] = given[f"{theirs}self_attn.{name}.weight"]
        else:
            for kind in ["weight", "bias"]:
                if f"{theirs}self_attn.q_proj.{kind}" in given:
                    result[f"{ours}attention.qkv.{kind}"] = torch.cat([given[f"{theirs}self_attn.{name}_proj.{kind}"] for name in "qkv"])
        result[ours + "attention.output.weight"] = given[theirs + "self_attn.o_proj.weight"]
        for name in ["q_norm", "k_norm"]:
            if f"{theirs}self_attn.{name}.weight" in given:
                result[f"{ours}attention.{name}.weight"] = given[f"{theirs}self_attn.{name}.weight"]
        if theirs + "mlp.experts.gate_up_proj" in given:
            result[ours + "moe.router.weight"] = given[theirs + "mlp.gate.weight"]
            result[ours + "moe.experts.gate_up.weight"] = given[theirs + "mlp.experts.gate_up_proj"]
            result[ours + "moe.experts.down.weight"] = given[theirs + "mlp.experts.down_proj"]
            if theirs + "mlp.shared_expert_gate.weight" in given:
                result[ours + "moe.shared.gate.weight"] = given[theirs + "mlp.shared_expert_gate.weight"]
        networks = {"mlp.": "feed_forward.", "mlp.shared_expert.": "moe.shared.", "mlp.shared_experts.": "moe.shared."}
        for name, mine in networks.items():
            if f"{theirs}{name}down_proj.weight" in given:
                result[ours + mine + "gate_up.weight"] = torch.cat([given[f"{theirs}{name}{part}_proj.weight"] for part in ["gate", "up"]])
                result[ours + mine + "down.weight"] = given[f"{theirs}{name}down_proj.weight"]
    assert sum(gradient.numel() for gradient in result.values()) == sum(gradient.numel() for gradient in given.values()), "every gradient is compared"
    return result


def relative(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


class Programs:
    def __init__(self, pimoe, whole_model):
        self.pimoe, self.whole_model = pimoe, whole_model
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(self, *words):
        done = subprocess.run([str(word) for word in words], env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout


def run_ours(programs, checkpoint, folder, tokens, samples=()):
    folder.mkdir()
    case = {"sequences": tokens.shape[0], "length": tokens.shape[1], "generate": GENERATED, "steps": len(samples), "batch": BATCH, "learning_rate": LEARNING_RATE}
    (folder / "case.yaml").write_text(json.dumps(case))
    if len(samples):
        samples.numpy().astype("<i8").tofile(folder / "samples.i64")
    tokens.numpy().astype("<i8").tofile(folder / "tokens.i64")
    programs.run(programs.whole_model, checkpoint, folder)

    def read(name, like):
        return torch.from_numpy(numpy.fromfile(folder / (name + ".f32"), dtype="<f4")).reshape(like.shape)

    return read, numpy.fromfile(folder / "generated.i64", dtype="<i8").reshape(-1, GENERATED).tolist()


def greedy_theirs(network, tokens):
    """The likeliest tokens after the first row, two thirds of the second and a third of the third, padded on the left to one length."""
    lengths = [tokens.shape[1] * (3 - row) // 3 for row in range(3)]
    padded, mask = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        padded[row, tokens.shape[1] - length :] = tokens[row, :length]
        mask[row, tokens.shape[1] - length :] = 1
    with torch.no_grad():
        return network.generate(padded, attention_mask=mask, max_new_tokens=GENERATED, min_new_tokens=GENERATED, do_sample=False, pad_token_id=0)[:, tokens.shape[1] :].tolist()


def train_theirs(network, samples):
    """Losses of steps of AdamW. @param samples [steps, B, S + 1]"""
    decays = [[parameter for parameter in network.parameters() if (parameter.dim() >= 2) == wanted] for wanted in (True, False)]
    groups = [{"params": decays[0], "weight_decay": 0.1}, {"params": decays[1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for batch in samples:
        optimizer.zero_grad()
        logits = network(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


def nudge(network):
    """Moves weights by about their last bit."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 1.2e-7 * torch.randn_like(parameter))
    return network


def predictable(vocabulary, shape):
    """Sequences of which there is something to learn: each token is the one before it times 7, plus 0, 1 or 2."""
    tokens = torch.randint(vocabulary, shape)
    for position in range(1, shape[-1]):
        tokens[..., position] = (tokens[..., position - 1] * 7 + tokens[..., position] % 3) % vocabulary
    return tokens


def corpus(programs, folder):
    text = folder / "text.txt"
    text.write_text("".join(f"{number} times {number} is {number * number}\n" for number in range(400)))
    programs.run(programs.pimoe, "data", "build", "--output", folder / "corpus", "--vocabulary", 285, text)
    return folder / "corpus"


def compare(programs, model, folder, seed, data):
    """Returns cells of the table, and what is wrong or ''."""
    source, run, back = folder / "hf", folder / "run", folder / "back"
    network = make(model, source, seed)
    tokens = torch.randint(model.config.vocab_size, (SEQUENCES, model.length))
    samples = predictable(model.config.vocab_size, (STEPS if data else 0, BATCH, model.length + 1))
    result = network(tokens, labels=tokens)
    result.loss.backward()
    programs.run(programs.pimoe, "import", source, "--output", run, *model.options)
    programs.run(programs.pimoe, "checkpoint", "verify", run)
    read, generated = run_ours(programs, run / "checkpoints" / "step-00000000", folder / "case", tokens, samples)
    cells = {"logits": relative(read("logits", result.logits), result.logits.detach()), "loss": relative(read("loss", result.loss), result.loss.detach())}
    gradients = our_gradients(network)
    cells["gradients"] = max(relative(read("grad." + name, value), value) for name, value in gradients.items())
    wrong = [f"{name} by {value:.1e}" for name, value in cells.items() if not value <= TOLERANCE]
    theirs = greedy_theirs(network, tokens)
    cells["greedy"] = f"{sum(a == b for ours, their in zip(generated, theirs) for a, b in zip(ours, their))}/{3 * GENERATED}"
    if generated != theirs:
        wrong.append("other tokens were generated")

    programs.run(programs.pimoe, "export", run, "--output", back, "--shard-bytes", 40_000)
    before, after = tensors_of(source), tensors_of(back)
    same = sum(before[name] == after.get(name) for name in before)
    cells["same bytes"] = f"{same}/{len(before)}"
    if before != after:
        wrong.append("tensors' bytes differ after import and export")
    if not relative(load(back)(tokens).logits, result.logits) <= SAME_WEIGHTS:
        wrong.append("logits of what was exported differ")
    if (back / "tokenizer.json").read_bytes() != (source / "tokenizer.json").read_bytes():
        wrong.append("tokenizer.json was not carried")
    if data is not None:
        settings = ["train.steps=2", "train.global_batch=4", "train.micro_batch=4", "train.precision=float32"]
        trained = folder / "trained"
        programs.run(programs.pimoe, "train", run / "config.yaml", f"data.train={data}", f"run.directory={trained}", f"checkpoint.resume={run}", "mesh.device=cpu", "train.threads=1", *settings)
        programs.run(programs.pimoe, "export", trained, "--output", folder / "after", "--dtype", "float32")
        moved = relative(load(folder / "after")(tokens).logits, result.logits.detach())
        cells["after 2 steps"] = f"{moved:.1e}"
        if not 0 < moved < 0.1:
            wrong.append(f"two steps of training moved the logits by {moved:.1e}")
        theirs = train_theirs(network, samples)
        ours = read("losses", theirs)
        cells["50 steps"] = (ours - theirs).abs().max().item()
        if not cells["50 steps"] <= LOSS_TOLERANCE:
            # Two experts that score alike but for rounding: which is taken goes on in every loss after it. Transformers' own model must do the same.
            nudged = train_theirs(nudge(load(source)), samples)
            print(f"  a tie: transformers differs from itself by {(nudged - theirs).abs().max():.1e} where weights are off by their last bits", file=sys.stderr)
            cells["50 steps"] = (ours - nudged).abs().max().item()
        cells["their losses"] = f"{theirs[0]:.2f} to {theirs[-1]:.2f}"
        if not cells["50 steps"] <= LOSS_TOLERANCE:
            wrong.append(f"training's losses by {cells['50 steps']:.1e}")
    return cells, "; ".join(wrong)


def row(cells, widths):
    print("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths)) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pimoe", required=True)
    parser.add_argument("--whole-model", required=True)
    parser.add_argument("--seeds", type=int, default=2, help="of each model (default: 2)")
    parser.add_argument("--family", help="these rows alone: a model_type")
    parser.add_argument("--quick", action="store_true", help="the first row of each family, one seed")
    arguments = parser.parse_args()
    programs = Programs(arguments.pimoe, arguments.whole_model)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, float32, CPU; equal is {TOLERANCE:.0e} or less\n")

    disagreements = []
    columns = ["logits", "loss", "gradients", "greedy", "same bytes", "50 steps", "their losses", "after 2 steps"]
    widths = [11, 46] + [max(9, len(name)) for name in columns] + [7]
    row(["family", "besides"] + columns + ["verdict"], widths)
    row(["-" * width for width in widths], widths)
    with tempfile.TemporaryDirectory(prefix="pimoe-interop.") as temporary:
        root = pathlib.Path(temporary)
        data = corpus(programs, root)
        wanted = [each for each in MODELS if arguments.family in (None, each.config.model_type)]
        seeds = arguments.seeds
        if arguments.quick:
            wanted, seeds = [each for each in wanted if each is first_of(each)], 1
        for number, model in enumerate(wanted):
            worst, verdict = {}, "equal"
            for seed in range(seeds):
                folder = root / f"{number}-{seed}"
                folder.mkdir()
                cells, wrong = compare(programs, model, folder, seed, data if seed == 0 else None)
                for name, value in cells.items():
                    worst[name] = numpy.maximum(worst.get(name, 0.0), value) if isinstance(value, float) else worst.get(name, value)
                if wrong:
                    verdict = "DIFFERS"
                    disagreements.append(f"{model.config.model_type} {model.note}, seed {seed}: {wrong}")
            shown = [f"{worst[name]:.1e}" if isinstance(worst.get(name), float) else worst.get(name, "") for name in columns]
            row([model.config.model_type, model.note] + shown + [verdict], widths)

        print("\nWrong on purpose, so that a difference must be seen:\n")
        for number, (what, model, change) in enumerate(each for each in WRONG if each[1] in wanted):
            folder = root / f"wrong-{number}"
            folder.mkdir()
            network = make(model, folder / "hf", 0)
            tokens = torch.randint(model.config.vocab_size, (SEQUENCES, model.length))
            change(folder / "hf")
            programs.run(programs.pimoe, "import", folder / "hf", "--output", folder / "run")
            read, _ = run_ours(programs, folder / "run" / "checkpoints" / "step-00000000", folder / "case", tokens)
            expected = network(tokens).logits.detach()
            difference = relative(read("logits", expected), expected)
            print(f"  {what} in {model.config.model_type}: {difference:.1e}{'' if difference > TOLERANCE else ', NOT SEEN'}", flush=True)
            if not difference > TOLERANCE:
                disagreements.append(f"{what}: not seen")
    for line in disagreements:
        print(line, file=sys.stderr)
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
