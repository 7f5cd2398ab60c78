#!/usr/bin/env python3
"""Training steps of a small OLMoE of Hugging Face transformers on the CPU, as bench/compare_cpu.py asks for them. Prints one JSON line.

    transformers_cpu.py '{"layers": 6, "width": 256, ...}' --dtype fp32|autocast --experts eager|grouped_mm [--compile] [--threads 2]

Needs torch and transformers.
"""
import argparse
import json
import re
import time

import torch
from transformers import AutoModelForCausalLM, OlmoeConfig

parser = argparse.ArgumentParser()
parser.add_argument("shape", type=json.loads)
parser.add_argument("--dtype", choices=["fp32", "autocast"], required=True)
parser.add_argument("--experts", choices=["eager", "grouped_mm"], required=True)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--steps", type=int, default=7)
parser.add_argument("--warmup", type=int, default=2)
options = parser.parse_args()
shape = options.shape

torch.set_num_threads(options.threads)
torch.manual_seed(0)
config = OlmoeConfig(
    num_hidden_layers=shape["layers"], hidden_size=shape["width"], intermediate_size=shape["expert_width"],
    num_attention_heads=shape["heads"], num_key_value_heads=shape["heads"], num_experts=shape["experts"],
    num_experts_per_tok=shape["choices"], vocab_size=shape["vocabulary"], max_position_embeddings=shape["positions"],
    tie_word_embeddings=False)
model = AutoModelForCausalLM.from_config(
    config, dtype=torch.float32, experts_implementation=options.experts, attn_implementation="sdpa").train()
parameters = sum(parameter.numel() for parameter in model.parameters())
if options.compile:
    model = torch.compile(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def step():
    tokens = torch.randint(0, shape["vocabulary"], (shape["sequences"], shape["positions"]))
    with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "autocast"):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


losses, seconds = [], []
for _ in range(options.warmup + options.steps):
    begun = time.perf_counter()
    losses.append(step())
    seconds.append(time.perf_counter() - begun)
status = open("/proc/self/status").read()
print(json.dumps({
    "parameters": parameters,
    "first_loss": losses[0],
    "seconds": seconds[options.warmup:],
    "peak_bytes": 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]),
}))
