"""Holds lm-evaluation-harness on an exported model against PiMoE's own numbers; started by lm_eval.sh.

A tiny model is trained on sums, with a tokenizer.json, and exported. lm_eval's command loads it with transformers and scores two tasks of local files:

  * choices (output_type multiple_choice): each choice's loglikelihood behind its question must be what our logits of the checkpoint say, and the
    accuracy what they choose;
  * texts (output_type loglikelihood_rolling): each text's loglikelihood, over several windows of the model's length, must be the sum that `pimoe evaluate`
    makes of a corpus of that text behind the token that ends documents; bits per byte of all of them likewise.

The same is asked of the checkpoint before the last: it must differ, or the comparison would see nothing.
"""

import argparse
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import megatron_layout

TOLERANCE = 1e-4  # of a choice's loglikelihood, in nats, and of a text's, in nats a token
LENGTH = 32
END = "<|endoftext|>"
CONFIG = """
run: {directory: run}
mesh: {device: cpu}
data: {train: corpus, tokenizer: tokenizer.json}
model: {layers: 2, width: 32, heads: 4, kv_heads: 2, sequence_length: %d, moe: {experts: 4, choices: 2, expert_width: 32, router: {renormalize: true}}}
train: {steps: 80, global_batch: 16, micro_batch: 16, precision: float32}
optimizer: {learning_rate: 3e-3}
checkpoint: {every_steps: 40, keep: 2}
""" % LENGTH
CHOICES = """
task: pimoe_choices
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TEXTS = """
task: pimoe_texts
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""


def check(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def run(folder, *command, **environment):
    done = subprocess.run([str(word) for word in command], cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    check(done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def sums():
    return [f"{a} and {b} make {a + b}.\n" for a in range(60) for b in range(60)]


def make_model(options, folder, draw):
    lines = sums()
    draw.shuffle(lines)
    text = "".join(lines)
    (folder / "sums.txt").write_text(text)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tiny.yaml").write_text(CONFIG)
    run(folder, options.pimoe, "data", "build", "--output", "corpus", "--tokenizer", "tokenizer.json", "sums.txt")
    run(folder, options.pimoe, "train", "tiny.yaml")
    run(folder, options.pimoe, "export", "run", "--output", "exported")
    return tokenizer


def text_of(windows, tokenizer, draw):
    """A text of whole windows: of the last one the harness lets a model see more than `pimoe evaluate` does where it is not full."""
    text = "é 日本 " + "".join(draw.sample(sums(), windows * 2)).strip()
    while (rest := len(tokenizer.encode(text).ids) % LENGTH) != 0 or len(tokenizer.encode(text).ids) < windows * LENGTH:
        text += "." if rest > LENGTH - 4 else draw.choice(sums()).strip()[: draw.randrange(1, 9)]
    return text


def make_tasks(folder, tokenizer, draw):
    """Questions of unlike lengths with two to four choices each, and texts of one window and of several."""
    (folder / "tasks").mkdir()
    questions = []
    for _ in range(40):
        a, b = draw.randrange(60), draw.randrange(60)
        wrong = draw.sample([n for n in range(a + b - 12, a + b + 12) if n >= 0 and n != a + b], draw.randrange(1, 4))
        choices = [f" {n}." for n in [a + b, *wrong]]
        draw.shuffle(choices)
        questions.append({"question": f"{a} and {b} make", "choices": choices, "answer": choices.index(f" {a + b}.")})
    texts = [{"text": text_of(windows, tokenizer, draw)} for windows in (1, 2, 5, 9)]
    for name, rows, task in (("choices", questions, CHOICES), ("texts", texts, TEXTS)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "tasks" / f"{name}.yaml").write_text(task % file)
    return questions, [row["text"] for row in texts]


def harness(folder):
    """@returns the results of both tasks, and their samples in order"""
    run(folder, sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", "pretrained=exported,dtype=float32", "--tasks", "pimoe_choices,pimoe_texts",
        "--include_path", "tasks", "--device", "cpu", "--batch_size", "4", "--log_samples", "--output_path", "scores", HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1", HF_HOME=str(folder / "cache"), TOKENIZERS_PARALLELISM="false")
    (results,) = (folder / "scores").rglob("results_*.json")
    samples = {}
    for name in ("pimoe_choices", "pimoe_texts"):
        (file,) = (folder / "scores").rglob(f"samples_{name}_*.jsonl")
        samples[name] = sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    return json.loads(results.read_text())["results"], samples


def our_choices(options, folder, checkpoint, tokenizer, questions):
    """@returns for each question the loglikelihoods of its choices, from the logits of the checkpoint"""
    rows = [(tokenizer.encode(each["question"]).ids, tokenizer.encode(each["question"] + choice).ids) for each in questions for choice in each["choices"]]
    check(all(whole[: len(question)] == question for question, whole in rows), "a choice changes the tokens of its question")
    length = max(len(whole) for _, whole in rows)
    check(length <= LENGTH, "a question is longer than the model")
    case = folder / f"case-{checkpoint.name}"
    case.mkdir()
    tokens = numpy.zeros((len(rows), length), dtype="<i8")
    for row, (_, whole) in zip(tokens, rows):
        row[: len(whole)] = whole
    tokens.tofile(case / "tokens.i64")
    (case / "case.yaml").write_text(json.dumps({"sequences": len(rows), "length": length, "generate": 1}))
    run(folder, options.whole_model, checkpoint, case)
    logits = numpy.fromfile(case / "logits.f32", dtype="<f4").reshape(len(rows), length, -1).astype(numpy.float64)
    logits -= logits.max(-1, keepdims=True)
    logits -= numpy.log(numpy.exp(logits).sum(-1, keepdims=True))
    sums = iter([sum(scores[place - 1, whole[place]] for place in range(len(question), len(whole))) for scores, (question, whole) in zip(logits, rows)])
    return [[next(sums) for _ in each["choices"]] for each in questions]


def our_texts(options, folder, checkpoint, tokenizer, texts):
    """@returns tokens, bytes and loglikelihood of each text, from `pimoe evaluate`"""
    end, corpora = tokenizer.token_to_id(END), []
    for number, text in enumerate(texts):
        ids = tokenizer.encode(text).ids
        megatron_layout.write(folder / f"text-{number}", 4, [[[end] + ids]])  # int32
        corpora += ["--data", f"{number}=text-{number}"]
    answer = json.loads(run(folder, options.pimoe, "evaluate", "--checkpoint", checkpoint, "--tokenizer", "tokenizer.json", "--json", *corpora))
    return {int(row["name"]): (row["tokens"], row["bytes"], -row["loss"] * row["tokens"]) for row in answer["domains"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pimoe", required=True)
    parser.add_argument("--whole-model", required=True)
    options = parser.parse_args()
    options.pimoe, options.whole_model = os.path.abspath(options.pimoe), os.path.abspath(options.whole_model)
    with tempfile.TemporaryDirectory(prefix="pimoe-lm-eval-") as name:
        folder, draw = pathlib.Path(name), random.Random(1)
        tokenizer = make_model(options, folder, draw)
        questions, texts = make_tasks(folder, tokenizer, draw)
        results, samples = harness(folder)
        theirs = [[float(response[0][0]) for response in sample["resps"]] for sample in samples["pimoe_choices"]]
        rolling = [float(sample["resps"][0][0]) for sample in samples["pimoe_texts"]]
        check([len(row) for row in theirs] == [len(each["choices"]) for each in questions] and len(rolling) == len(texts), "other samples than asked for")

        worst = {}
        for step in (80, 40):
            checkpoint = folder / "run" / "checkpoints" / f"step-{step:08d}"
            ours = our_choices(options, folder, checkpoint, tokenizer, questions)
            evaluated = our_texts(options, folder, checkpoint, tokenizer, texts)
            choices = max(abs(a - b) for row, their in zip(ours, theirs) for a, b in zip(row, their))
            per_token = max(abs(total - rolling[number]) / tokens for number, (tokens, _, total) in evaluated.items())
            worst[step] = choices, per_token
            if step == 80:
                right = sum(int(numpy.argmax(row)) == each["answer"] for row, each in zip(ours, questions)) / len(questions)
                check(math.isclose(results["pimoe_choices"]["acc,none"], right), f"accuracy is {results['pimoe_choices']['acc,none']}, ours chooses {right}")
                check(all(size == len(texts[number].encode()) for number, (_, size, _) in evaluated.items()), "bytes are counted otherwise")
                check(len(evaluated) == len(texts), "a text was not evaluated")
        bits = -sum(rolling) / math.log(2) / sum(len(text.encode()) for text in texts)
        check(math.isclose(results["pimoe_texts"]["bits_per_byte,none"], bits, rel_tol=1e-6), "bits per byte are not the sum of the loglikelihoods")
        print(f"choices: {sum(map(len, theirs))} loglikelihoods of {len(questions)} questions, worst difference {worst[80][0]:.1e} nats; accuracy {right:.3f} on both sides")
        tokens = sum(count for count, _, _ in evaluated.values())
        print(f"texts: {len(evaluated)} of {tokens} tokens in windows of {LENGTH}, worst difference {worst[80][1]:.1e} nats a token")
        print(f"the checkpoint of step 40 against the exported one of step 80: {worst[40][0]:.1e} nats, {worst[40][1]:.1e} nats a token")
        check(max(worst[80]) <= TOLERANCE, f"the numbers differ by more than {TOLERANCE}")
        check(min(worst[40]) > TOLERANCE, "another checkpoint's numbers were taken for the same")


if __name__ == "__main__":
    main()
