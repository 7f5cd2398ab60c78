#!/usr/bin/env python3
"""New tokens a second of Hugging Face transformers' own `generate`, as bench/compare_serve.py asks for them. Prints one JSON line.

    transformers_generate.py HF_FOLDER --dtype float32|bfloat16 --experts eager|grouped_mm --batches 1,64 [--device cpu|cuda] [--threads 2]

Greedy, prompts of random tokens and of one length, keys and values kept, nothing ends early. Medians after one call that does not count. Needs torch and
transformers.
"""
import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
parser.add_argument("--experts", choices=["eager", "grouped_mm"], required=True)
parser.add_argument("--batches", default="1,64")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--prompt", type=int, default=16)
parser.add_argument("--new", type=int, default=48)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()

torch.set_num_threads(options.threads)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(
    options.folder, dtype=getattr(torch, options.dtype), experts_implementation=options.experts, attn_implementation="sdpa").to(options.device).eval()
model.generation_config.eos_token_id = None  # as many new tokens of each prompt as were asked for


def generated(prompts):
    begun = time.perf_counter()
    with torch.inference_mode():
        texts = model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=options.new, use_cache=True,
                               pad_token_id=0)
    if options.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    assert texts.shape == (len(prompts), options.prompt + options.new), texts.shape
    return seconds


rates = {}
for batch in map(int, options.batches.split(",")):
    prompts = torch.randint(0, model.config.vocab_size, (batch, options.prompt), device=options.device)
    seconds = [generated(prompts) for _ in range(1 + options.rounds)][1:]
    rates[batch] = batch * options.new / statistics.median(seconds)
print(json.dumps({"parameters": sum(parameter.numel() for parameter in model.parameters()), "tokens_per_second": rates}))
