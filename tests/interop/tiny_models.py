"""Tiny random models for transformers_models.py: what they are, how transformers saves and loads them, and changes of their configurations that make them wrong."""

import dataclasses
import json

import torch
import transformers

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
    length: int = 33  # tokens of a compared sequence


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
