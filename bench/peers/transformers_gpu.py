#!/usr/bin/env python3
"""Training steps of a Hugging Face MoE model on one GPU, as bench/compare.py asks for them. Prints one JSON line.

    transformers_gpu.py SHAPE [--compile] [--liger] [--micro-batch 8] [--device cuda]

SHAPE is JSON with family (olmoe, qwen3 or mixtral), layers, width, expert_width, experts, choices, heads, kv_heads, head_width, vocabulary,
positions, sequences, renormalize. As fast as a user gets it: grouped_mm, cuDNN's attention, weights, gradients and moments in bfloat16, fused AdamW. The
micro-batch is halved until it fits. Needs torch and transformers.
"""
import argparse
import contextlib
import gc
import json
import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig, Qwen3MoeConfig

WARMUP = 3


def config_of(shape):
    common = dict(num_hidden_layers=shape["layers"], hidden_size=shape["width"], num_attention_heads=shape["heads"],
                  num_key_value_heads=shape["kv_heads"], num_experts_per_tok=shape["choices"], vocab_size=shape["vocabulary"],
                  max_position_embeddings=shape["positions"], tie_word_embeddings=False)
    if shape["family"] == "olmoe":
        return OlmoeConfig(intermediate_size=shape["expert_width"], num_experts=shape["experts"], norm_topk_prob=shape["renormalize"], **common)
    if shape["family"] == "qwen3":
        return Qwen3MoeConfig(moe_intermediate_size=shape["expert_width"], num_experts=shape["experts"], norm_topk_prob=shape["renormalize"],
                              head_dim=shape["head_width"], **common)
    return MixtralConfig(intermediate_size=shape["expert_width"], num_local_experts=shape["experts"], head_dim=shape["head_width"],
                         sliding_window=None, **common)


def apply_liger(family):
    import liger_kernel.transformers
    name = {"olmoe": "olmoe", "qwen3": "qwen3_moe", "mixtral": "mixtral"}[family]
    apply = getattr(liger_kernel.transformers, f"apply_liger_kernel_to_{name}", None)
    if apply is None:
        raise SystemExit(f"error: this liger-kernel has nothing for {name}")
    apply()


def measure(options, micro_batch):
    shape, device = options.shape, options.device
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16, experts_implementation="grouped_mm",
                                                 attn_implementation="sdpa").train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    if options.compile:
        model = torch.compile(model)
    batches = torch.randint(0, shape["vocabulary"], (8, shape["sequences"], shape["positions"]), device=device)
    steps = shape["sequences"] // micro_batch

    def step(index):
        attention = sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if device == "cuda" else contextlib.nullcontext()
        total = torch.zeros((), device=device)
        with attention:
            for tokens in batches[index % len(batches)].split(micro_batch):
                loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss / steps
                loss.backward()
                total += loss.detach()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return total

    first_loss, seconds = step(0).item(), []
    for index in range(1, WARMUP + options.steps):
        if index == WARMUP and device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        step(index)
        seconds.append(time.perf_counter() - begun)
    return {"seconds": statistics.median(seconds[WARMUP - 1:]), "first_loss": first_loss, "micro_batch": micro_batch,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", type=json.loads)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--liger", action="store_true", help="with liger-kernel's norms, rotation, SwiGLU and cross-entropy")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.liger:
        apply_liger(options.shape["family"])
    micro_batch = min(options.micro_batch, options.shape["sequences"])
    while True:
        try:
            result = measure(options, micro_batch)
            break
        except torch.cuda.OutOfMemoryError:
            if micro_batch == 1:
                raise
        # Here and not above: the error holds what ran when it was thrown.
        micro_batch //= 2
        gc.collect()
        torch.compiler.reset()
        torch.cuda.empty_cache()
    print(json.dumps({"cases": {"step": result}}))


if __name__ == "__main__":
    main()
