"""What growth.py measures: for each topic its sizes, how one is measured, and what a table and a chart show of it."""
import pathlib
import re

from growth_runs import QUIET, Failure, forget_cached, write_texts

# A model of one layer whose experts have a fixed width; what a topic grows is set beside these.
MODEL = {"model.vocabulary": 512, "model.layers": 1, "model.width": 128, "model.heads": 4, "model.kv_heads": 4, "model.sequence_length": 128,
         "model.moe.experts": 8, "model.moe.choices": 2, "model.moe.expert_width": 64, "train.micro_batch": 4, "train.global_batch": 4, "mesh.device": "cpu",
         "run.hang_limit": 600}
# As little as training can be: what remains of a run is its start.
TINY = {**MODEL, **QUIET, "model.width": 32, "model.sequence_length": 32, "model.moe.expert_width": 16, "train.micro_batch": 1, "train.steps": 100000, "train.threads": 1,
        "log.every_steps": 1}

SIZES = {"experts": [8, 16, 32, 64, 128, 256], "tokens": [1, 2, 4, 8, 16, 32], "length": [128, 256, 512, 1024, 2048, 4096], "ranks": [1, 2, 4, 8],
         "start": [1, 2, 4, 8, 16, 32, 64], "corpus": [10, 100, 1000], "checkpoint": [4, 16, 64, 256, 512]}
SMALL_SIZES = {"experts": [2, 4], "tokens": [1, 2], "length": [8, 16], "ranks": [1, 2], "start": [1, 2], "corpus": [0.1, 0.2], "checkpoint": [2, 4]}


def measure_experts(tool, sizes):
    """Experts of a layer; their width, a token's choices and the tokens stay."""
    for experts in sizes:
        keys = {**MODEL, "model.moe.experts": experts}
        few, many = (tool.bench("layer", {**keys, "train.micro_batch": batch})[0]["balanced"] for batch in (4, 16))
        tokens, more = few["tokens_of_a_rank"], many["tokens_of_a_rank"]
        per_token = (many["kept_bytes"] - few["kept_bytes"]) / (more - tokens)
        full = {**keys, "train.micro_batch": 16, "train.global_batch": 16}
        step = tool.bench("model", full)[0]["training step"]
        start = tool.first_step(tool.small_corpus(), {**TINY, "model.moe.experts": experts, "train.global_batch": 1})
        yield {"size": experts, "step_cpu_seconds": tool.step_cpu_seconds(full), "kept_bytes_a_token": per_token,
               "kept_bytes_beside": few["kept_bytes"] - per_token * tokens, "state_bytes": step["state_bytes"], "peak_bytes": step["peak_bytes"],
               "start_seconds": start["seconds"]}


def step_of(tool, keys):
    keys = {**MODEL, "model.layers": 2, **keys}
    row = tool.bench("model", keys)[0]["training step"]
    return {"step_cpu_seconds": tool.step_cpu_seconds(keys), "kept_bytes": row["kept_bytes"], "peak_bytes": row["peak_bytes"], "state_bytes": row["state_bytes"]}


def measure_tokens(tool, sizes):
    """Sequences of a micro-batch, each of 128 tokens, in a model of two layers."""
    for sequences in sizes:
        yield {"size": sequences, **step_of(tool, {"train.micro_batch": sequences, "train.global_batch": sequences})}


def measure_length(tool, sizes):
    """Tokens of the one sequence of a micro-batch, in a model of two layers."""
    for length in sizes:
        yield {"size": length, **step_of(tool, {"train.micro_batch": 1, "train.global_batch": 1, "model.sequence_length": length})}


def kinds(by_group, ranks):
    """The mean rank's, by kind of group."""
    return {re.sub(" group of .*", "", group): count / ranks for group, count in by_group.items()}


def measure_ranks(tool, sizes):
    """Ranks, each with two sequences; the experts over all of them, and over pairs."""
    for ranks in sizes:
        point = {"size": ranks}
        keys = {**MODEL, "train.threads": 1, "train.micro_batch": 2, "train.global_batch": 2 * ranks}
        for name, parallel in (("all", ranks), ("pairs", min(ranks, 2))):
            row, = tool.bench("scaling", {**keys, "mesh.expert_parallel": parallel}, ranks)[0].values()
            bytes_, messages = kinds(row["sent_bytes_by_group"], ranks), kinds(row["sent_messages_by_group"], ranks)
            point[f"{name}_bytes"], point[f"{name}_messages"] = sum(bytes_.values()), sum(messages.values())
            point[f"{name}_collectives"] = sum(row["collectives_by_group"].values())
            point[f"{name}_groups"] = {group: {"bytes": bytes_[group], "messages": messages[group], "collectives": calls}
                                       for group, calls in kinds(row["collectives_by_group"], 1).items()}
        rows, _ = tool.bench("dispatch", {**keys, "mesh.expert_parallel": ranks}, ranks)
        point["dispatch_bytes"] = rows["forward and backward"]["sent_bytes_of_a_rank"]
        point["dispatch_messages"] = rows["forward and backward"]["sent_messages_of_a_rank"]
        yield point


def measure_start(tool, sizes):
    """Ranks of one thread that start a tiny model of 64 experts."""
    for ranks in sizes:
        start = tool.first_step(tool.small_corpus(), {**TINY, "model.moe.experts": 64, "train.global_batch": ranks}, ranks)
        if start["processes"] != ranks:
            raise Failure(f"{start['processes']} processes of {ranks} were there after the first step")
        yield {"size": ranks, "start_seconds": start["seconds"], "seconds_a_rank": start["seconds"] / ranks, "own_bytes": start["own_bytes"],
               "shared_bytes": start["shared_bytes"], "peak_bytes": start["peak_bytes"]}


def measure_corpus(tool, sizes):
    """Megabytes of text, in documents of 2 KB: built, then opened by training with nothing of it in memory."""
    for megabytes in sizes:
        path = tool.scratch / "texts.jsonl"
        write_texts(path, int(1e6 * megabytes))
        prefix, facts, seconds, usage = tool.corpus([path], "corpus", "--vocabulary", "1000")
        path.unlink()
        files = [pathlib.Path(f"{prefix}.{ending}") for ending in ("bin", "idx")]
        for file in files:
            forget_cached(file)
        start = tool.first_step(prefix, {**TINY, "model.vocabulary": 1024, "train.global_batch": 1})
        tokens, index = (file.stat().st_size for file in files)
        yield {"size": megabytes, "build_seconds": seconds, "build_cpu_seconds": usage.cpu_seconds,
               "megabytes_per_second": facts["input_bytes"] / 1e6 / seconds, "build_peak_bytes": usage.peak_bytes,
               "token_bytes": tokens, "index_bytes": index, "start_seconds": start["seconds"], "start_own_bytes": start["own_bytes"],
               "start_peak_bytes": start["peak_bytes"], "start_read_bytes": start["read_bytes"]}
        for file in files:
            file.unlink()


def measure_checkpoint(tool, sizes):
    """Bytes of a checkpoint, which grow with the experts, in files of 64 MiB; memory beside the state is what the process had of its own beyond one that only trains."""
    for experts in sizes:
        keys = {**MODEL, "model.width": 256, "model.moe.expert_width": 256, "model.moe.experts": experts, "train.micro_batch": 1, "train.global_batch": 1,
                "train.precision": "float32", "checkpoint.part_bytes": 64 << 20}
        rows, usage = tool.bench("checkpoint", keys)
        _, without = tool.bench("scaling", keys)
        save, load, beside = rows["save"], rows["load"], rows["save beside training"]
        yield {"size": save["bytes"], "experts": experts, "save_seconds": save["low_seconds"], "load_seconds": load["low_seconds"],
               "verify_seconds": load["verify_low_seconds"], "stall_seconds": beside["stall_low_seconds"], "peak_bytes": usage.peak_bytes,
               "beside_state_bytes": usage.private_bytes - without.private_bytes}


def number(value):
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def seconds(value):
    return f"{1e3 * value:,.1f} ms" if value < 1 else f"{value:.2f} s"


def size(value):
    if value < 0:
        return "-" + size(-value)
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}" if value < 999.5 * limit else f"{value / limit:.0f} {unit}"
    return f"{value:.0f} B"


class Topic:
    def __init__(self, name, title, unit, measure, columns, panels, shown=number):
        """@param columns  [(key, title, text of a value)]  @param panels  [(title, unit of y, [keys])]"""
        self.name, self.title, self.unit, self.measure, self.columns, self.panels, self.shown = name, title, unit, measure, columns, panels, shown


TOPICS = [
    Topic("experts", "Experts of a layer", "experts", measure_experts,
          [("step_cpu_seconds", "step of 2,048 tokens, CPU time", seconds), ("kept_bytes_a_token", "kept for backward a token", size),
           ("kept_bytes_beside", "kept beside", size), ("state_bytes", "weights, gradients, moments", size), ("peak_bytes", "peak", size),
           ("start_seconds", "start to first step", seconds)],
          [("Time", "s", ["step_cpu_seconds", "start_seconds"]),
           ("Memory", "bytes", ["kept_bytes_a_token", "kept_bytes_beside", "state_bytes", "peak_bytes"])]),
    Topic("tokens", "Sequences of a micro-batch", "sequences of 128 tokens", measure_tokens,
          [("step_cpu_seconds", "step, CPU time", seconds), ("kept_bytes", "kept for backward", size), ("peak_bytes", "peak", size), ("state_bytes", "state", size)],
          [("Time", "s", ["step_cpu_seconds"]), ("Memory", "bytes", ["kept_bytes", "peak_bytes", "state_bytes"])]),
    Topic("length", "Length of a sequence", "tokens of one sequence", measure_length,
          [("step_cpu_seconds", "step, CPU time", seconds), ("kept_bytes", "kept for backward", size), ("peak_bytes", "peak", size), ("state_bytes", "state", size)],
          [("Time", "s", ["step_cpu_seconds"]), ("Memory", "bytes", ["kept_bytes", "peak_bytes", "state_bytes"])]),
    Topic("ranks", "Ranks: what one sends in a step", "ranks", measure_ranks,
          [("all_bytes", "experts over all: bytes", size), ("all_messages", "messages", number), ("all_collectives", "collectives", number),
           ("pairs_bytes", "experts over pairs: bytes", size), ("pairs_messages", "messages", number), ("pairs_collectives", "collectives", number),
           ("dispatch_bytes", "dispatch, there and back: bytes", size), ("dispatch_messages", "messages", number)],
          [("Bytes that a rank sends", "bytes", ["all_bytes", "pairs_bytes", "dispatch_bytes"]),
           ("Messages of a rank, and collectives", "", ["all_messages", "pairs_messages", "dispatch_messages", "all_collectives"])]),
    Topic("start", "Start-up", "ranks of one thread", measure_start,
          [("start_seconds", "start to first step", seconds), ("seconds_a_rank", "over ranks", seconds), ("own_bytes", "own memory a rank", size),
           ("shared_bytes", "shared memory a rank", size), ("peak_bytes", "resident, largest rank", size)],
          [("Time", "s", ["start_seconds", "seconds_a_rank"]), ("Memory a rank", "bytes", ["own_bytes", "shared_bytes", "peak_bytes"])]),
    Topic("corpus", "Corpus", "MB of text", measure_corpus,
          [("build_seconds", "build", seconds), ("build_cpu_seconds", "its CPU time", seconds), ("megabytes_per_second", "MB/s", number), ("build_peak_bytes", "peak of building", size),
           ("token_bytes", ".bin", size), ("index_bytes", ".idx", size), ("start_seconds", "start to first step", seconds),
           ("start_own_bytes", "own memory of training", size), ("start_peak_bytes", "resident", size), ("start_read_bytes", "read from the disk", size)],
          [("Time", "s", ["build_seconds", "build_cpu_seconds", "start_seconds"]),
           ("Memory and disk", "bytes", ["build_peak_bytes", "start_own_bytes", "start_peak_bytes", "start_read_bytes"])]),
    Topic("checkpoint", "Checkpoint", "bytes of a checkpoint", measure_checkpoint,
          [("save_seconds", "save", seconds), ("load_seconds", "load", seconds), ("verify_seconds", "of it digests", seconds),
           ("stall_seconds", "training stands still", seconds), ("beside_state_bytes", "memory beside the state", size), ("peak_bytes", "peak", size)],
          [("Time", "s", ["save_seconds", "load_seconds", "stall_seconds"]), ("Memory", "bytes", ["beside_state_bytes", "peak_bytes"])], shown=size),
]
