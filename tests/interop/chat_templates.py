#!/usr/bin/env python3
"""Compares chat templates with transformers: texts, tokens, and which of them the assistant learns.

For each template (tests/interop/chat_templates, and any that are named) random conversations are rendered by both sides, and must give the same text, or
be refused by both. Tokens are those of a byte-level BPE that is trained here, with the special tokens of all templates. What is learned is compared

    with transformers' return_assistant_tokens_mask, for templates with {% generation %} blocks;
    for the others with the rule of docs/data.md, in Python: the text that a message adds behind its generation prompt, less what stands behind the
    last special token.

    tests/interop/run.sh chat [--conversations N] [--seed N] [TEMPLATE.jinja ...]      makes the environment, and calls this
"""

import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import sysconfig
import tempfile

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|endoftext|>",
           "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>",
           "<\uff5cend\u2581of\u2581sentence\uff5c>"]
WORDS = ["Hello", "world", " and", "\n", " ", "  ", "é", "日本", "🙂", "a\n\nb", "x'y\"z", "\\n", "{{ x }}", "1 + 2 = 3", "\t", ".", "\r\n", "ß",
         "User: ", "<|im_end|>", "</think>", "<tool>"]


def text(draw, least=0):
    return "".join(draw.choice(WORDS) for _ in range(draw.randint(least, 8)))


def conversation(draw):
    messages = [{"role": "system", "content": text(draw)}] if draw.random() < 0.4 else []
    for _ in range(draw.randint(1, 4)):
        messages += [{"role": "user", "content": text(draw, 1)}, {"role": "assistant", "content": text(draw, 1) + "x"}]
    if draw.random() < 0.2:
        messages.pop()
    if draw.random() < 0.1:
        draw.shuffle(messages)
    return messages


def train_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=3000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    tokenizer.train_from_iterator([file.read_text(errors="ignore") for file in sorted(library.glob("*.py"))[:40]], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>")


def learned_by_prefixes(render, messages, whole, tokenizer, ids, offsets):
    """@returns the marks, or None where a prefix is none, or "unknown" where the template cannot be asked for the first message"""
    marks = [0] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        try:
            asked, answered = render(messages[:i], True), render(messages[:i + 1], False)
        except Exception:  # the template refuses the beginning; of no message at all, jinja2 may where the engine does not
            return "unknown" if i == 0 else None
        if not (answered.startswith(asked) and whole.startswith(answered)):
            return None
        inside = [t for t, (begin, end) in enumerate(offsets) if begin < len(answered) and end > len(asked)]
        special = [t for t in inside if ids[t] in tokenizer.all_special_ids_here]
        if special and tokenizer.decode(ids[special[-1] + 1:inside[-1] + 1]).strip(" \t\r\n") == "":
            inside = [t for t in inside if t <= special[-1]]
        for t in inside:
            marks[t] = 1
    return marks if any(marks[1:]) else None


def compare(template, tokenizer, folder, program, count, draw):
    source = template.read_text()
    compiled = _compile_jinja_template(source)

    def render(messages, prompt):
        return compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")

    cases = [{"tokenizer": str(folder / "tokenizer.json"), "template": str(template), "messages": conversation(draw),
              "add_generation_prompt": draw.random() < 0.25} for _ in range(count)]
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    figures = {"texts": 0, "refused by both": 0, "masks": 0, "masks refused by both": 0, "with a role that is passed over": 0, "that the assistant begins": 0}
    troubles = []
    generation = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
    for case, line in zip(cases, done.stdout.splitlines(), strict=True):
        ours, messages = json.loads(line), case["messages"]
        try:
            theirs = render(messages, case["add_generation_prompt"])
        except Exception as error:
            if "error" in ours:
                figures["refused by both"] += 1
            else:
                troubles.append(("transformers refuses", str(error), ours, messages))
            continue
        if ours.get("text") != theirs:
            troubles.append(("text", theirs, ours, messages))
            continue
        figures["texts"] += 1
        if case["add_generation_prompt"]:
            continue
        encoded = tokenizer(theirs, add_special_tokens=False, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        if generation:
            marks = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            marks = list(marks["assistant_masks"])
            marks = marks if any(marks[1:]) else None
        else:
            marks = learned_by_prefixes(render, messages, theirs, tokenizer, ids, encoded["offset_mapping"])
        if "does not know the role" in ours.get("refused", "") and any(
                message["content"].strip() and render(messages[:i] + [message | {"content": "other"}] + messages[i + 1:], False) == theirs
                for i, message in enumerate(messages)):
            figures["with a role that is passed over"] += 1
        elif marks == "unknown":
            figures["that the assistant begins"] += 1
        elif marks is None and "refused" in ours:
            figures["masks refused by both"] += 1
        elif ours.get("ids") != ids or ours.get("learned") != marks:
            troubles.append(("mask", (ids, marks), ours, messages))
        else:
            figures["masks"] += 1
    print(f"{template.stem:45}" + ", ".join(f"{value} {name}" for name, value in figures.items() if value) + f", {len(troubles)} differ", flush=True)
    for trouble in troubles[:2]:
        print("   ", *(repr(part)[:600] for part in trouble), sep="\n      ")
    return len(troubles)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("templates", nargs="*", type=pathlib.Path)
    options = parser.parse_args()
    here = pathlib.Path(__file__).parent / "chat_templates"
    templates = options.templates or sorted(here.glob("*.jinja"))
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        tokenizer = train_tokenizer(folder)
        tokenizer.all_special_ids_here = set(tokenizer.convert_tokens_to_ids(SPECIAL))
        wrong = sum(compare(template, tokenizer, folder, options.program, options.conversations, draw) for template in templates)
    print(f"{len(templates)} templates, {len(templates) * options.conversations} conversations: {wrong} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
