"""Compares whole models with Hugging Face transformers: same weights, same tokens, float32 on the CPU, there and back.

Each row of the table is a tiny random model that transformers saved. `pimoe import` makes a run of it; its logits, loss, gradients and the 20
likeliest tokens after a prompt are compared; `pimoe export` writes it again, whose tensors must have the same bytes, and whose logits in
transformers must be the same bits. Then `pimoe train` takes two steps from it, and what they left is exported and loaded. Differences are
max|ours - theirs| / max|theirs|. A second table takes wrong models on purpose and has to see a difference in each.

Started by run.sh in its environment. Exits with 1 if anything disagrees.
"""

import argparse
import dataclasses
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

TOLERANCE = 1e-4
SEQUENCES, LENGTH, GENERATED = 3, 33, 20
BASE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@dataclasses.dataclass
class Model:
    config: transformers.PretrainedConfig
    note: str = ""
    dtype: torch.dtype = torch.float32
    save: dict = dataclasses.field(default_factory=dict)
    v4: bool = False  # config.json as transformers 4 spells it
    options: tuple = ()  # of import


def mixtral(**more):
    return transformers.MixtralConfig(**(BASE | {"intermediate_size": 24, "num_local_experts": 6, "num_experts_per_tok": 2} | more))


def qwen3_moe(**more):
    own = {"head_dim": 16, "intermediate_size": 40, "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": True}
    return transformers.Qwen3MoeConfig(**(BASE | own | more))


def llama(**more):
    return transformers.LlamaConfig(**(BASE | {"intermediate_size": 48} | more))


def qwen3(**more):
    return transformers.Qwen3Config(**(BASE | {"head_dim": 8, "intermediate_size": 48} | more))


def olmoe(**more):
    return transformers.OlmoeConfig(**(BASE | {"intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3} | more))


SHARDS = {"max_shard_size": "50KB"}
MERGED = {"save_original_format": False}
MODELS = [
    Model(mixtral()),
    Model(mixtral(num_key_value_heads=4), "bfloat16, shards", torch.bfloat16, SHARDS),
    Model(mixtral(), "merged experts", save=MERGED),
    Model(mixtral(sliding_window=60), "window 60, S 60", options=("--sequence-length", "60")),
    Model(qwen3_moe()),
    Model(qwen3_moe(norm_topk_prob=False, mlp_only_layers=[0], rope_parameters={"rope_type": "default", "rope_theta": 5e6}), "gates not normalised, dense first"),
    Model(qwen3_moe(tie_word_embeddings=True), "bfloat16, merged, tied", torch.bfloat16, MERGED),
    Model(qwen3_moe(), "shards, keys of transformers 4", save=SHARDS, v4=True),
    Model(olmoe()),
    Model(olmoe(num_key_value_heads=4, norm_topk_prob=True), "bfloat16, merged, gates normalised", torch.bfloat16, MERGED),
    Model(llama()),
    Model(llama(num_key_value_heads=4, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 5e5}), "bfloat16, tied", torch.bfloat16),
    Model(llama(head_dim=12), "float16, keys of transformers 4", torch.float16, v4=True),
    Model(qwen3()),
    Model(qwen3(tie_word_embeddings=True, num_key_value_heads=1), "bfloat16, tied, shards", torch.bfloat16, SHARDS),
]


def spell_as_v4(folder):
    """rope_theta and torch_dtype, and num_experts: what transformers 4 wrote."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    file.write_text(json.dumps(config))


def make(model, folder, seed):
    torch.manual_seed(seed)
    network = transformers.AutoModelForCausalLM.from_config(model.config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif name.endswith("gate.weight"):
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    network.to(model.dtype).save_pretrained(folder, **model.save)
    (folder / "tokenizer.json").write_text('{"carried": "along"}')
    if model.v4:
        spell_as_v4(folder)
    return load(folder)


def load(folder):
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    return network.eval()


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
    for layer in range(network.config.num_hidden_layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        result[ours + "attention_norm.weight"] = given[theirs + "input_layernorm.weight"]
        result[ours + "feed_forward_norm.weight"] = given[theirs + "post_attention_layernorm.weight"]
        result[ours + "attention.qkv.weight"] = torch.cat([given[f"{theirs}self_attn.{name}_proj.weight"] for name in "qkv"])
        result[ours + "attention.output.weight"] = given[theirs + "self_attn.o_proj.weight"]
        for name in ["q_norm", "k_norm"]:
            if f"{theirs}self_attn.{name}.weight" in given:
                result[f"{ours}attention.{name}.weight"] = given[f"{theirs}self_attn.{name}.weight"]
        if theirs + "mlp.experts.gate_up_proj" in given:
            result[ours + "moe.router.weight"] = given[theirs + "mlp.gate.weight"]
            result[ours + "moe.experts.gate_up.weight"] = given[theirs + "mlp.experts.gate_up_proj"]
            result[ours + "moe.experts.down.weight"] = given[theirs + "mlp.experts.down_proj"]
        else:
            result[ours + "feed_forward.gate_up.weight"] = torch.cat([given[f"{theirs}mlp.{name}_proj.weight"] for name in ["gate", "up"]])
            result[ours + "feed_forward.down.weight"] = given[theirs + "mlp.down_proj.weight"]
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


def run_ours(programs, checkpoint, folder, tokens):
    folder.mkdir()
    (folder / "case.yaml").write_text(json.dumps({"sequences": tokens.shape[0], "length": tokens.shape[1], "generate": GENERATED}))
    tokens.numpy().astype("<i8").tofile(folder / "tokens.i64")
    programs.run(programs.whole_model, checkpoint, folder)

    def read(name, like):
        return torch.from_numpy(numpy.fromfile(folder / (name + ".f32"), dtype="<f4")).reshape(like.shape)

    return read, numpy.fromfile(folder / "generated.i64", dtype="<i8").tolist()


def corpus(programs, folder):
    text = folder / "text.txt"
    text.write_text("".join(f"{number} times {number} is {number * number}\n" for number in range(400)))
    programs.run(programs.pimoe, "data", "build", "--output", folder / "corpus", "--vocabulary", 285, text)
    return folder / "corpus"


def compare(programs, model, folder, seed, data):
    """Returns cells of the table, and what is wrong or ''."""
    source, run, back = folder / "hf", folder / "run", folder / "back"
    network = make(model, source, seed)
    tokens = torch.randint(model.config.vocab_size, (SEQUENCES, LENGTH))
    result = network(tokens, labels=tokens)
    result.loss.backward()
    programs.run(programs.pimoe, "import", source, "--output", run, *model.options)
    programs.run(programs.pimoe, "checkpoint", "verify", run)
    read, generated = run_ours(programs, run / "checkpoints" / "step-00000000", folder / "case", tokens)
    cells = {"logits": relative(read("logits", result.logits), result.logits.detach()), "loss": relative(read("loss", result.loss), result.loss.detach())}
    gradients = our_gradients(network)
    cells["gradients"] = max(relative(read("grad." + name, value), value) for name, value in gradients.items())
    wrong = [f"{name} by {value:.1e}" for name, value in cells.items() if not value <= TOLERANCE]
    theirs = network.generate(tokens[:1], max_new_tokens=GENERATED, min_new_tokens=GENERATED, do_sample=False)[0, LENGTH:].tolist()
    cells["greedy"] = f"{sum(a == b for a, b in zip(generated, theirs))}/{GENERATED}"
    if generated != theirs:
        wrong.append("other tokens were generated")

    programs.run(programs.pimoe, "export", run, "--output", back, "--shard-bytes", 40_000)
    before, after = tensors_of(source), tensors_of(back)
    same = sum(before[name] == after.get(name) for name in before)
    cells["same bytes"] = f"{same}/{len(before)}"
    if before != after:
        wrong.append("tensors' bytes differ after import and export")
    if not torch.equal(load(back)(tokens).logits, result.logits):
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
    return cells, "; ".join(wrong)


def change_config(**values):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


WRONG = [  # what is wrong, in which model, and how
    ("norm_topk_prob: false", MODELS[4], change_config(norm_topk_prob=False)),
    ("num_experts_per_tok: 2", MODELS[4], change_config(num_experts_per_tok=2)),
    ("rope_theta: 1e6", MODELS[10], change_config(rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    ("rms_norm_eps: 0.1", MODELS[10], change_config(rms_norm_eps=0.1)),
    ("query heads 8, of half the width", MODELS[11], change_config(num_attention_heads=8, num_key_value_heads=8, head_dim=4)),
]


def row(cells, widths):
    print("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths)) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pimoe", required=True)
    parser.add_argument("--whole-model", required=True)
    parser.add_argument("--seeds", type=int, default=2, help="of each model (default: 2)")
    arguments = parser.parse_args()
    programs = Programs(arguments.pimoe, arguments.whole_model)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, float32, CPU; equal is {TOLERANCE:.0e} or less\n")

    disagreements = []
    columns = ["logits", "loss", "gradients", "greedy", "same bytes", "after 2 steps"]
    widths = [9, 34] + [max(9, len(name)) for name in columns] + [7]
    row(["family", "besides"] + columns + ["verdict"], widths)
    row(["-" * width for width in widths], widths)
    with tempfile.TemporaryDirectory(prefix="pimoe-interop.") as temporary:
        root = pathlib.Path(temporary)
        data = corpus(programs, root)
        for number, model in enumerate(MODELS):
            worst, verdict = {}, "equal"
            for seed in range(arguments.seeds):
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
        for number, (what, model, change) in enumerate(WRONG):
            folder = root / f"wrong-{number}"
            folder.mkdir()
            network = make(model, folder / "hf", 0)
            tokens = torch.randint(model.config.vocab_size, (SEQUENCES, LENGTH))
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
