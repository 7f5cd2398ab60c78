"""Holds the tokenizer that transformers loads from an exported model against the one that the model was trained with; started by run.sh.

A model of each family takes one step with each of PiMoE's kinds of tokenizer, SentencePiece's of `data build` and a tokenizer.json, and is exported.
AutoTokenizer must give the same ids of texts and texts of ids, and the token that ends documents; for names of special tokens inside of a text, and U+2581,
which is SentencePiece's own mark for a space, the two differ by design, and are left out. Of Qwen2 AutoTokenizer trusts no folder (as the export says): PreTrainedTokenizerFast
loads it. Without tokenizer_config.json AutoTokenizer takes the family's
own way of cutting words: in some family it must then differ, or the comparison would see nothing.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import sysconfig
import tempfile

import transformers

from tokenizer_differences import Fuzz, pimoe, train

LATENT = "latent: {kv_rank: 8, query_rank: 8, plain_width: 8, rotary_width: 4, value_width: 8}"
FAMILIES = {
    "llama": "moe: {experts: 0}, feed_forward_width: 32",
    "qwen2": "moe: {experts: 0}, feed_forward_width: 32, qkv_bias: true",
    "qwen3": "moe: {experts: 0}, feed_forward_width: 32, qk_norm: true",
    "mixtral": "moe: {experts: 4, choices: 2, expert_width: 16, router: {renormalize: true}}",
    "qwen2_moe": "qkv_bias: true, moe: {experts: 4, choices: 2, expert_width: 16, shared_width: 16, shared_gate: true}",
    "qwen3_moe": "qk_norm: true, moe: {experts: 4, choices: 2, expert_width: 16, router: {renormalize: true}}",
    "olmoe": "qk_norm: true, qk_norm_over: projection, moe: {experts: 4, choices: 2, expert_width: 16}",
    "deepseek_v2": LATENT + ", moe: {experts: 4, choices: 2, expert_width: 16, shared_width: 16, router: {renormalize: false}}",
    "deepseek_v3": LATENT + ", moe: {experts: 4, choices: 2, expert_width: 16, shared_width: 16, router: {kind: sigmoid}}",
}
CONFIG = """
run: {directory: %s}
mesh: {device: cpu}
data: {train: %s, tokenizer: %s}
model: {layers: 1, width: 32, heads: 4, kv_heads: 4, sequence_length: 16, %s}
train: {steps: 1, global_batch: 1, micro_batch: 1, precision: float32, threads: 1}
"""


def run(folder, *command):
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"FAILED: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def differing(family, folder, texts, ours):
    """@returns transformers' tokenizer, and the texts whose ids it gives otherwise, or decodes otherwise"""
    loader = transformers.PreTrainedTokenizerFast if family == "qwen2" else transformers.AutoTokenizer
    theirs = loader.from_pretrained(folder)
    ids = theirs(texts, add_special_tokens=True).input_ids
    back = theirs.batch_decode(ids, skip_special_tokens=True)
    return theirs, [text for text, *pairs in zip(texts, ids, back, ours) if (pairs[0], pairs[1]) != (pairs[2][0], pairs[2][1].decode("utf-8", errors="replace"))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pimoe", required=True)
    parser.add_argument("--program", required=True, help="tests/tokenize_batch of the build")
    parser.add_argument("--strings", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="1,000 strings")
    options = parser.parse_args()
    binary, count = os.path.abspath(options.pimoe), 1000 if options.quick else options.strings
    transformers.logging.set_verbosity_error()
    files = sorted(file for file in pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py") if file.stat().st_size < 100_000)[:60]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.strip()]
    fuzz = Fuzz(1, lines, set())
    texts = [text for text in (fuzz.text() for _ in range(count)) if not any(name in text for name in ("</s>", "<unk>", "<|endoftext|>", "\u2581"))]
    failed = False
    with tempfile.TemporaryDirectory(prefix="pimoe-exports-") as name:
        folder = pathlib.Path(name)
        _, json_file = train("gpt2", files, folder)
        run(folder, binary, "data", "build", "--output", "pieces", "--vocabulary", 2000, *files)
        run(folder, binary, "data", "build", "--output", "json", "--tokenizer", json_file, *files[:5])
        kinds = {"tokenizer.model": ("pieces", folder / "pieces.model", "</s>"), "tokenizer.json": ("json", json_file, "<|endoftext|>")}
        ours = {kind: pimoe(options.program, file, texts) for kind, (_, file, _) in kinds.items()}
        unlike = []
        for family, model in FAMILIES.items():
            for kind, (corpus, file, end) in kinds.items():
                trained, exported = f"{family}-{corpus}", folder / f"{family}-{corpus}-hf"
                (folder / "tiny.yaml").write_text(CONFIG % (trained, corpus, file, model))
                run(folder, binary, "train", "tiny.yaml")
                run(folder, binary, "export", trained, "--output", exported)
                config = transformers.AutoConfig.from_pretrained(exported)
                theirs, different = differing(family, exported, texts, ours[kind])
                wrong = [f"{len(different)} texts, the first {different[0]!r}"] if different else []
                if config.model_type != family:
                    wrong.append(f"it is a {config.model_type}")
                if theirs.eos_token != end or theirs.eos_token_id != config.eos_token_id:
                    wrong.append(f"documents end with {theirs.eos_token!r} ({theirs.eos_token_id}), config.json says {config.eos_token_id}")
                (exported / "tokenizer_config.json").unlink()
                if differing(family, exported, texts, ours[kind])[1]:
                    unlike.append(f"{family} with {kind}")
                print(f"{family}, {kind}: {len(texts):,} texts, {'; '.join(wrong) or 'the same ids'}", flush=True)
                failed = failed or bool(wrong)
    print(f"without tokenizer_config.json other ids: {', '.join(unlike) or 'nowhere, NOT SEEN'}")
    return 1 if failed or not unlike else 0


if __name__ == "__main__":
    sys.exit(main())
