#!/usr/bin/env python3
"""Compares PiMoE's reading of tokenizer.json with the package `tokenizers`: ids of texts, and texts of ids.

For the configuration of each family a byte-level BPE (or one with byte fallback) is trained by the package on text of this machine, the .py and .rst
files of Python's own library. Then both sides encode and decode the same strings: characters of all planes, control characters, combining marks,
runs of spaces, digits, joined emoji, added tokens inside of text, pieces of the training text, and every character alone.

    tests/interop/run.sh tokenizers [--strings N] [--seed N] [--quick]      makes the environment, and calls this

Prints for each family how many strings were compared and how many differ; ends with 1 if one does. Characters that the two sides' Unicode versions
see differently are found first, one at a time, and reported; random strings do without them, and without those that are newer than this Python.
"""

import argparse
import json
import pathlib
import random
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|"
            r"\s+(?!\S)|\s+"]
VOCABULARY = 6000


def byte_level(tokenizer, pre_tokenizer, special, post=True):
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if post:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
                               initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)


def gpt2():
    tokenizer = Tokenizer(models.BPE())
    return tokenizer, byte_level(tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])


def prefix_space():
    """As RoBERTa has it, with digits on their own."""
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    return tokenizer, byte_level(tokenizer, pre_tokenizers.Sequence(steps), ["</s>"])


def llama3():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    steps = [split(LLAMA3), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    trainer = byte_level(tokenizer, pre_tokenizers.Sequence(steps), ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
    return tokenizer, trainer


def qwen2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    steps = [split(QWEN2), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return tokenizer, byte_level(tokenizer, pre_tokenizers.Sequence(steps), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def gpt_neox():
    """OLMo's too: NFC, and runs of spaces as added tokens that are no special ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer, byte_level(tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>", "<|padding|>"])


def nfkc():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s{3,}"), "  ")])
    steps = [split(O200K), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return tokenizer, byte_level(tokenizer, pre_tokenizers.Sequence(steps), ["<|endoftext|>"])


def deepseek():
    tokenizer = Tokenizer(models.BPE())
    steps = [split(pattern) for pattern in DEEPSEEK] + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return tokenizer, byte_level(tokenizer, pre_tokenizers.Sequence(steps), ["<|endoftext|>"])


def splits():
    """Every behaviour of Split, one after the other."""
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Split("\n", "merged_with_previous"), pre_tokenizers.Split(Regex(r"[(\[{]+"), "merged_with_next"),
             pre_tokenizers.Split(Regex(r"\p{P}"), "contiguous"), pre_tokenizers.Split(Regex(r"\w+|\s+"), "contiguous", invert=True),
             pre_tokenizers.Split("\t", "removed"), pre_tokenizers.Split(Regex(r"\d*"), "merged_with_previous"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return tokenizer, byte_level(tokenizer, pre_tokenizers.Sequence(steps), ["<|endoftext|>"])


def llama2():
    """Mixtral's too: characters, and bytes for what the vocabulary has no character for."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    # Only as a help to the trainer, which would take a line for a word.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return tokenizer, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False, limit_alphabet=200)


FAMILIES = {family.__name__: family for family in (gpt2, prefix_space, llama3, qwen2, gpt_neox, nfkc, deepseek, splits, llama2)}


def add_tokens(name, tokenizer):
    """Tokens of every kind that a text may hold."""
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False), AddedToken("<mask>", lstrip=True, normalized=False),
                          AddedToken("<right>", rstrip=True, normalized=False), AddedToken("café", normalized=True),
                          AddedToken("word", single_word=True, normalized=True), AddedToken("<|to", normalized=False)])
    if name == "gpt_neox":
        tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in range(24, 1, -1)])


def train(name, files, folder):
    tokenizer, trainer = FAMILIES[name]()
    if name == "llama2":
        tokenizer.train([str(file) for file in files], trainer)
        tokenizer.pre_tokenizer = None
        document = json.loads(tokenizer.to_str())
        document["added_tokens"] = document["added_tokens"][:3]  # bytes are no added tokens
        tokenizer = Tokenizer.from_str(json.dumps(document))
    else:
        tokenizer.train([str(file) for file in files], trainer)
    add_tokens(name, tokenizer)
    file = folder / name / "tokenizer.json"
    file.parent.mkdir()
    document = json.loads(tokenizer.to_str())
    if name in ("gpt2", "qwen2"):  # the older spelling
        document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    file.write_text(json.dumps(document, ensure_ascii=name == "gpt2"), encoding="utf-8")
    return Tokenizer.from_file(str(file)), file


def pimoe(program, file, texts):
    """Returns (ids, decoded bytes) of each text."""
    told = b"".join(struct.pack("<I", len(data)) + data for data in (text.encode("utf-8") for text in texts))
    answer = subprocess.run([program, str(file)], input=told, stdout=subprocess.PIPE, check=True).stdout
    results, at = [], 0
    for _ in texts:
        (count,) = struct.unpack_from("<I", answer, at)
        ids = list(struct.unpack_from(f"<{count}i", answer, at + 4))
        at += 4 + 4 * count
        (length,) = struct.unpack_from("<I", answer, at)
        results.append((ids, answer[at + 4:at + 4 + length]))
        at += 4 + length
    return results


def package(tokenizer, texts):
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = [one.ids for one in encoded]
    return list(zip(ids, tokenizer.decode_batch(ids, skip_special_tokens=True)))


def differing(program, file, tokenizer, texts):
    return [(text, ours, theirs) for text, ours, theirs in zip(texts, pimoe(program, file, texts), package(tokenizer, texts))
            if ours[0] != theirs[0] or ours[1].decode("utf-8", errors="replace") != theirs[1]]


def all_characters():
    """All that Unicode has assigned to characters, with the holes between them, and some of the empty planes."""
    codes = [*range(0xD800), *range(0xE000, 0x32400), *range(0xE0000, 0xE0200), *range(0x40000, 0x110000, 997), 0x10FFFF]
    return [chr(code) for code in codes]


class Fuzz:
    def __init__(self, seed, lines, avoid):
        self.random = random.Random(seed)
        self.lines = lines
        self.avoid = avoid
        self.added = ["<|endoftext|>", "</s>", "<s>", "<|im_start|>", "<|begin_of_text|>", "<|tool|>", "<|to", "<mask>", " <mask> ", "<right>  ",
                      "café", "cafe\u0301", "word", "words", "a word.", "wordword", "<unk>", "<0x0A>", "▁", "▁▁the"]
        self.odd = ["\u200d", "👩‍👩‍👧", "🏳️‍🌈", "é", "e\u0301", "\u0301\u0316\u0301", "\ufeff", "ﬁ", "ﷺ", "한국어", "한", "日本語", "ſ", "'S", "'ſ", "'LL", "İ",
                    "\u2126", "\u0344", "\u180e", "\u0085", "\u2028", "\u3000", "\u00a0", "١٢٣", "²³", "Ⅷ", "\u0378", "नमस्ते", "ไทย", "\U000e0001"]
        self.space = [" ", "  ", "\n", "\r\n", "\t", "\v", "\f", "\n\n", " \n ", "\x1c", "\x7f", "\0", "    "]

    def character(self):
        while True:
            code = self.random.choice([self.random.randrange(0x80), self.random.randrange(0x800), self.random.randrange(0x3000),
                                       self.random.randrange(0x10000), self.random.randrange(0x300, 0x370), self.random.randrange(0x110000)])
            if not 0xD800 <= code < 0xE000 and chr(code) not in self.avoid:
                return chr(code)

    def part(self):
        pick = self.random.randrange(9)
        if pick == 0:
            return self.random.choice(self.space) * self.random.randrange(1, 4)
        if pick == 1:
            return " " * self.random.randrange(1, 60)
        if pick == 2:
            return self.random.choice(self.added)
        if pick == 3:
            return self.random.choice(self.odd)
        if pick == 4:
            return str(self.random.randrange(10 ** self.random.randrange(1, 15)))
        if pick == 5:
            return "".join(self.character() for _ in range(self.random.randrange(1, 12)))
        if pick == 6:
            return self.random.choice("'(\"-_.,") + self.random.choice(["s", "T", "re", "VE", "m", "ll", "D", "x", ""])
        if pick == 7:
            return "".join(self.random.choice("aAézZ\u0301\u0328 ") for _ in range(self.random.randrange(1, 30)))
        line = self.random.choice(self.lines)
        begin = self.random.randrange(len(line) + 1)
        return line[begin:begin + self.random.randrange(1, 80)]

    def text(self):
        return "".join(self.part() for _ in range(self.random.randrange(14)))


def show(cases):
    for text, ours, theirs in cases[:5]:
        print(f"    {text!r}\n      pimoe      {ours[0][:40]} {ours[1][:80]!r}\n      tokenizers {list(theirs[0])[:40]} {theirs[1][:80]!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, help="tests/tokenize_batch of the build")
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--quick", action="store_true", help="2,000 strings; of characters above U+3000 one in fifty")
    options = parser.parse_args()
    if options.quick:
        options.strings = 2000

    library = pathlib.Path(sysconfig.get_path("stdlib"))
    files = sorted(file for file in library.glob("*.py") if file.stat().st_size < 200_000)[:150]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.strip()]
    # A newer character may be a letter to one side alone, and its neighbours seldom show it.
    newer = {character for character in all_characters() if ord(character) < 0x40000 and unicodedata.category(character) == "Cn"}
    failed = False
    with tempfile.TemporaryDirectory(prefix="pimoe-tokenizers-") as scratch:
        for name in options.family or FAMILIES:
            begin = time.monotonic()
            tokenizer, file = train(name, files, pathlib.Path(scratch))
            single = all_characters()
            if options.quick:
                single = single[:0x3000] + single[0x3000 + options.seed % 50 :: 50]
            # As a letter or none (".The" is merged with it or not), beside an added token of a single word, and among marks.
            contexts = ["{}.The", "word{}", "e{}\u0301\u0316"]
            unlike = set()
            for context in contexts:
                cases = differing(options.program, file, tokenizer, [context.format(character) for character in single])
                place = context.index("{")
                unlike |= {text[place] for text, _, _ in cases}
            fuzz = Fuzz(options.seed, lines, unlike | newer | set(all_characters()).difference(single))
            texts = [fuzz.text() for _ in range(options.strings)]
            cases = differing(options.program, file, tokenizer, texts)
            print(f"{name}: {len(texts):,} strings of {sum(map(len, texts)):,} characters, {len(cases)} differ; {len(single):,} characters in "
                  f"{len(contexts)} places, {len(unlike)} differ; {time.monotonic() - begin:.0f} s", flush=True)
            if unlike:
                codes = sorted(map(ord, unlike))
                print("    characters: " + " ".join(f"U+{code:04X}" for code in codes[:60]) + (" ..." if len(codes) > 60 else ""))
            show(cases)
            failed = failed or bool(cases)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
