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
LOSS_TOLERANCE = 1e-3
SAME_WEIGHTS = 1e-6  # that may lie elsewhere in memory, where torch's products take other paths
SEQUENCES, LENGTH, GENERATED = 3, 33, 20
STEPS, BATCH, LEARNING_RATE = 50, 8, 2e-3
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
    length: int = LENGTH


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


def qwen2(**more):
    return transformers.Qwen2Config(**(BASE | {"intermediate_size": 48} | more))


def qwen2_moe(**more):
    own = {"intermediate_size": 40, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 36, "num_experts": 6, "num_experts_per_tok": 2}
    return transformers.Qwen2MoeConfig(**(BASE | own | more))


def deepseek_v3(**more):
    own = {"intermediate_size": 40, "moe_intermediate_size": 12, "n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2}
    latent = {"num_key_value_heads": 4, "q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 12}
    return transformers.DeepseekV3Config(**(BASE | own | latent | {"first_k_dense_replace": 1, "num_nextn_predict_layers": 0} | more))


def deepseek_v2(**more):
    own = {"intermediate_size": 40, "moe_intermediate_size": 12, "n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3, "topk_method": "greedy"}
    latent = {"num_key_value_heads": 4, "q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 12}
    return transformers.DeepseekV2Config(**(BASE | own | latent | {"first_k_dense_replace": 1} | more))


def rope(kind, theta=10000.0, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta} | more}


YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 24}
DEEPSEEK_YARN = rope("yarn", **YARN, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0)
LONG = {"max_position_embeddings": 400}
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
    Model(llama(**rope("linear", factor=4.0)), "linear rotary scaling"),
    Model(llama(**rope("dynamic", factor=2.0)), "dynamic rotary scaling"),
    Model(llama(**rope("yarn", **YARN)), "yarn"),
    Model(llama(**rope("yarn", 5e5, **YARN, attention_factor=1.3, beta_fast=16.0, beta_slow=2.0, truncate=False), head_dim=20), "yarn, all keys", v4=True),
    Model(llama(**rope("llama3", 5e5, **LLAMA3), head_dim=16), "llama3"),
    Model(llama(**rope("llama3", 5e5, **LLAMA3), **LONG, head_dim=16), "llama3, keys of transformers 4, S 400", torch.bfloat16, v4=True, length=380),
    Model(qwen3_moe(**rope("yarn", 1e6, **YARN)), "yarn"),
    Model(qwen2()),
    Model(qwen2(num_key_value_heads=1, tie_word_embeddings=True, **rope("yarn", 1e6, **YARN)), "bfloat16, tied, yarn", torch.bfloat16),
    Model(qwen2_moe()),
    Model(qwen2_moe(norm_topk_prob=True, mlp_only_layers=[0], num_key_value_heads=4), "bfloat16, merged, gates normalised, dense first", torch.bfloat16, MERGED),
    Model(qwen2_moe(qkv_bias=False, num_experts=5, hidden_size=24, decoder_sparse_step=3), "no biases, every third, shards", save=SHARDS, v4=True),
    Model(deepseek_v3()),
    Model(deepseek_v3(**DEEPSEEK_YARN, **LONG), "yarn with mscale, S 400", length=380),
    Model(deepseek_v3(q_lora_rank=None, n_group=1, topk_group=1, norm_topk_prob=False, first_k_dense_replace=0), "no query rank, no groups, not normalised"),
    Model(deepseek_v3(v_head_dim=22, rope_interleave=False, n_shared_experts=1), "bfloat16, merged, wide values, halves", torch.bfloat16, MERGED),
    Model(deepseek_v3(**rope("yarn", **YARN, mscale=0.707, mscale_all_dim=0.8), tie_word_embeddings=True, v_head_dim=16), "bfloat16, shards, keys of transformers 4", torch.bfloat16, SHARDS, v4=True),
    Model(deepseek_v2()),
    Model(deepseek_v2(q_lora_rank=None, topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=4.0, **DEEPSEEK_YARN), "bfloat16, merged, no query rank, groups, yarn", torch.bfloat16, MERGED),
    Model(deepseek_v3(first_k_dense_replace=3, **rope("llama3", **LLAMA3)), "dense, llama3"),
]


def model(kind, note=""):
    """The row of a family with this remark."""
    return next(row for row in MODELS if row.config.model_type == kind and row.note == note)


def first_of(row):
    """The first row of a row's family."""
    return next(each for each in MODELS if each.config.model_type == row.config.model_type)


def spell_as_v4(folder):
    """rope_theta and torch_dtype, and num_experts: what transformers 4 wrote."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    rotary = config.pop("rope_parameters")
    config["rope_theta"] = rotary.pop("rope_theta")
    config["rope_scaling"] = None if rotary["rope_type"] == "default" else {"type": rotary.pop("rope_type")} | rotary
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
            elif name.endswith(".bias"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
        network.to(model.dtype)
        for name, buffer in network.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.data = 0.2 * torch.randn(buffer.shape)  # in float32 whatever the weights are in
    network.save_pretrained(folder, **model.save)
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


def change_config(**values):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def change_rotary(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        change_config(rope_parameters=config["rope_parameters"] | values)(folder)

    return change


WRONG = [  # what is wrong, in which model, and how
    ("norm_topk_prob: false", model("qwen3_moe"), change_config(norm_topk_prob=False)),
    ("num_experts_per_tok: 2", model("qwen3_moe"), change_config(num_experts_per_tok=2)),
    ("rope_theta: 1e6", model("llama"), change_config(rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    ("rms_norm_eps: 0.1", model("llama"), change_config(rms_norm_eps=0.1)),
    ("query heads 8, of half the width", model("llama", "bfloat16, tied"), change_config(num_attention_heads=8, num_key_value_heads=8, head_dim=4)),
    ("factor: 5 of linear", model("llama", "linear rotary scaling"), change_rotary(factor=5.0)),
    ("original_max_position_embeddings: 200 of yarn", model("llama", "yarn"), change_rotary(original_max_position_embeddings=200)),
    ("attention_factor: 1 of yarn", model("llama", "yarn"), change_rotary(attention_factor=1.0)),
    ("high_freq_factor: 8 of llama3", model("llama", "llama3"), change_rotary(high_freq_factor=8.0)),
    ("norm_topk_prob: true", model("qwen2_moe"), change_config(norm_topk_prob=True)),
    ("topk_group: 3", model("deepseek_v2", "bfloat16, merged, no query rank, groups, yarn"), change_config(topk_group=3)),
    ("n_group: 1, topk_group: 1", model("deepseek_v3"), change_config(n_group=1, topk_group=1)),
    ("routed_scaling_factor: 1", model("deepseek_v3"), change_config(routed_scaling_factor=1.0)),
    ("rope_interleave: false", model("deepseek_v3"), change_config(rope_interleave=False)),
    ("mscale_all_dim: 0", model("deepseek_v3", "yarn with mscale, S 400"), change_rotary(mscale_all_dim=0.0)),
]


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
