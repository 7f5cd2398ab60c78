"""Holds the openai client and lm-evaluation-harness against `pimoe serve`; started by served.sh.

A tiny model is trained on sums, with a tokenizer.json, and served with an API key and a chat template.

  * openai: models, completions, chats, streams of both, usage, log-probabilities, several choices, stop texts, and each kind of error as the client's own
    exception. Greedy texts must be those of `pimoe generate`.
  * lm_eval --model local-completions: each choice's loglikelihood must be what our logits of the checkpoint say (lm_eval_scores.py has the questions), and a choice
    is greedy exactly where the server continues its question with it.
"""

import argparse
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

import openai
from lm_eval_scores import LENGTH, TOLERANCE, check, make_model, make_tasks, our_choices, run

KEY = "interop-key-0123456789abcdef"
TEMPLATE = ("{% for message in messages %}{% if message.role == 'assistant' %}make{{ message.content }}{% else %}{{ message.content }} {% endif %}{% endfor %}"
            "{% if add_generation_prompt %}make{% endif %}")


def start(options, folder):
    (folder / "keys").write_text(f"tester {KEY}\nslow slow-{KEY} 1\n")
    (folder / "template.jinja").write_text(TEMPLATE)
    log = (folder / "serve.log").open("w")
    process = subprocess.Popen([options.pimoe, "serve", "--checkpoint", "run", "--port", "0", "--api-key-file", "keys", "--chat-template", "template.jinja", "--max-queue", "500"],
                               cwd=folder, stderr=log)
    while process.poll() is None:
        found = re.search(r"at (http://\S+:\d+)", (folder / "serve.log").read_text())
        if found:
            return process, found.group(1)
        time.sleep(0.05)
    sys.exit("FAILED: no server:\n" + (folder / "serve.log").read_text())


def expect(error, call):
    try:
        call()
    except error as refused:
        return refused
    sys.exit(f"FAILED: no {error.__name__}")


def try_openai(options, folder, url):
    client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0)
    check([model.id for model in client.models.list()] == ["run"], "models")
    check(client.models.retrieve("run").owned_by == "pimoe", "one model")
    prompts = ["12 and 30 make", "7 and 8"]
    texts = [json.loads(run(folder, options.pimoe, "generate", "--checkpoint", "run", "--prompt", prompt, "--temperature", "0", "--tokens", "8", "--json"))["text"] for prompt in prompts]
    answer = client.completions.create(model="run", prompt=prompts, max_tokens=8, temperature=0)
    check([choice.text for choice in answer.choices] == texts, f"completions {answer} are not generate's {texts}")
    check(answer.usage.completion_tokens <= 16 and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, "usage")
    streamed = list(client.completions.create(model="run", prompt=prompts[0], max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}))
    check("".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == texts[0], "a stream says something else")
    check(streamed[-1].usage.completion_tokens > 0 and streamed[-2].choices[0].finish_reason in ("length", "stop"), "the stream's end")

    messages = [{"role": "user", "content": prompts[0].removesuffix(" make")}]
    chat = client.chat.completions.create(model="run", messages=messages, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3)
    check(chat.choices[0].message.content == texts[0] and chat.choices[0].message.role == "assistant", f"the chat's answer {chat} is not {texts[0]}")
    check(all(entry.logprob == entry.top_logprobs[0].logprob and len(entry.top_logprobs) == 3 for entry in chat.choices[0].logprobs.content), "a greedy token is the likeliest")
    parts = list(client.chat.completions.create(model="run", messages=messages, max_completion_tokens=8, temperature=0, stream=True))
    check(parts[0].choices[0].delta.role == "assistant" and "".join(part.choices[0].delta.content or "" for part in parts) == texts[0], "the chat's stream")

    several = client.completions.create(model="run", prompt="3 and", n=3, seed=5, max_tokens=6, temperature=1)
    check(len({choice.text for choice in several.choices}) > 1, "three choices of one seed are one")
    again = client.completions.create(model="run", prompt="3 and", n=3, seed=5, max_tokens=6, temperature=1)
    check([choice.text for choice in again.choices] == [choice.text for choice in several.choices], "a seed draws twice the same")
    stop = texts[0][1:3]
    stopped = client.completions.create(model="run", prompt=prompts[0], max_tokens=8, temperature=0, stop=[stop])
    check(stopped.choices[0].text == texts[0][: texts[0].index(stop)] and stopped.choices[0].finish_reason == "stop", f"{stopped} does not end before {stop!r}")

    expect(openai.AuthenticationError, lambda: openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0).models.list())
    refused = expect(openai.NotFoundError, lambda: client.completions.create(model="gpt-4", prompt="x"))
    check(refused.code == "model_not_found" and refused.param == "model", "the error's members")
    expect(openai.BadRequestError, lambda: client.completions.create(model="run", prompt="x", max_tokens=LENGTH + 1))
    expect(openai.BadRequestError, lambda: client.chat.completions.create(model="run", messages=messages, tools=[{"type": "function", "function": {"name": "f"}}]))
    slow = openai.OpenAI(base_url=url + "/v1", api_key="slow-" + KEY, max_retries=0)
    slow.completions.create(model="run", prompt="x", max_tokens=1)
    limited = expect(openai.RateLimitError, lambda: slow.completions.create(model="run", prompt="x", max_tokens=1))
    check(int(limited.response.headers["retry-after"]) > 1, "when to ask again")
    print(f"openai {openai.__version__}: models, completions, chats, streams, usage, log-probabilities, choices, stop texts and five kinds of error")
    return client


def harness(folder, url):
    """@returns the samples of the task of choices, in order"""
    run(folder, sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args",
        f"model=run,base_url={url}/v1/completions,tokenizer_backend=huggingface,tokenizer=exported,num_concurrent=4,max_retries=1,max_length={LENGTH}", "--tasks", "pimoe_choices",
        "--include_path", "tasks", "--batch_size", "4", "--log_samples", "--output_path", "served", OPENAI_API_KEY=KEY, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1",
        HF_HOME=str(folder / "cache"), TOKENIZERS_PARALLELISM="false")
    (file,) = (folder / "served").rglob("samples_pimoe_choices_*.jsonl")
    return sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda sample: sample["doc_id"])


def try_lm_eval(options, folder, url, client, tokenizer, questions):
    samples = harness(folder, url)
    theirs = [[(float(response[0][0]), str(response[0][1]) == "True") for response in sample["resps"]] for sample in samples]
    ours = our_choices(options, folder, folder / "run" / "checkpoints" / "step-00000080", tokenizer, questions)
    check([len(row) for row in theirs] == [len(row) for row in ours], "other samples than asked for")
    worst = max(abs(their[0] - our) for row, rows in zip(theirs, ours) for their, our in zip(row, rows))
    check(worst < TOLERANCE, f"a loglikelihood differs by {worst} nats")
    greedy = 0
    for row, each in zip(theirs, questions):
        question = tokenizer.encode(each["question"]).ids
        for (_, is_greedy), choice in zip(row, each["choices"]):
            wanted = tokenizer.encode(each["question"] + choice).ids[len(question):]
            entry = client.completions.create(model="run", prompt=[question], max_tokens=len(wanted), temperature=0, logprobs=0)
            drawn = entry.choices[0].logprobs.tokens
            expected = drawn == [tokenizer.decode([token]) for token in wanted]
            check(is_greedy == expected, f"{each['question']}{choice}: greedy {is_greedy}, but the server goes on with {drawn}")
            greedy += is_greedy
    # None of the questions' choices need be greedy: what the model itself goes on with is, by the harness' own rule, bit for bit.
    for each in questions[:5]:
        ids = tokenizer.encode(each["question"]).ids
        drawn = json.loads(run(folder, options.pimoe, "generate", "--checkpoint", "run", "--prompt", each["question"], "--temperature", "0", "--tokens", "6", "--json"))["tokens"]
        scored = client.completions.create(model="run", prompt=[ids + drawn], max_tokens=1, temperature=0, echo=True, logprobs=1).choices[0].logprobs
        for place in range(len(ids), len(ids) + len(drawn)):
            check(scored.token_logprobs[place] == max(scored.top_logprobs[place].values()), f"{each['question']}: token {place} of what it goes on with is not greedy")
    print(f"lm_eval local-completions: {sum(map(len, theirs))} loglikelihoods of {len(questions)} questions, worst difference {worst:.1e} nats; {greedy} choices greedy on both sides")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pimoe", required=True)
    parser.add_argument("--whole-model", required=True)
    options = parser.parse_args()
    options.pimoe, options.whole_model = os.path.abspath(options.pimoe), os.path.abspath(options.whole_model)
    with tempfile.TemporaryDirectory(prefix="pimoe-served-") as name:
        folder, draw = pathlib.Path(name), random.Random(1)
        tokenizer = make_model(options, folder, draw)
        questions, _ = make_tasks(folder, tokenizer, draw)
        process, url = start(options, folder)
        try:
            client = try_openai(options, folder, url)
            try_lm_eval(options, folder, url, client, tokenizer, questions)
        finally:
            process.terminate()
            code = process.wait(60)
        check(code == 0, f"the server left with {code}:\n" + (folder / "serve.log").read_text()[-3000:])


if __name__ == "__main__":
    main()
