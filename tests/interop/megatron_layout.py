#!/usr/bin/env python3
"""Compares corpora with Megatron's layout as numpy reads and writes it, both ways (docs/data.md). Called by tests/interop/run.sh corpora.

What `pimoe data build` wrote is mapped and read with the offsets of the layout alone: every document's tokens must be the text's ids, and its last the
end token. What numpy wrote, in each type of tokens and with several sequences to a document, must be good and the same for `pimoe data`.
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

import numpy

TYPES = {1: numpy.uint8, 2: numpy.int8, 3: numpy.int16, 4: numpy.int32, 5: numpy.int64, 8: numpy.uint16}


def read(prefix):
    """Returns the documents of a corpus, each the tokens of its sequences."""
    index = numpy.memmap(f"{prefix}.idx", mode="r", order="C")
    tokens = numpy.memmap(f"{prefix}.bin", mode="r", order="C")
    magic, version, code, sequences, ends = struct.unpack_from("<9sQBQQ", index, 0)
    assert magic == b"MMIDIDX\0\0" and version == 1, (magic, version)
    at = 34
    lengths = numpy.frombuffer(index, numpy.int32, sequences, at)
    pointers = numpy.frombuffer(index, numpy.int64, sequences, at + lengths.nbytes)
    documents = numpy.frombuffer(index, numpy.int64, ends, at + lengths.nbytes + pointers.nbytes)
    pieces = [numpy.frombuffer(tokens, TYPES[code], length, pointer) for length, pointer in zip(lengths, pointers)]
    return [numpy.concatenate(pieces[begin:end]).tolist() for begin, end in zip(documents[:-1], documents[1:])]


def write(prefix, code, documents):
    """Writes documents of sequences."""
    sequences = [numpy.array(sequence, TYPES[code]) for document in documents for sequence in document]
    with open(f"{prefix}.bin", "wb") as file:
        for sequence in sequences:
            file.write(sequence.tobytes())
    lengths = numpy.array([len(sequence) for sequence in sequences], numpy.int32)
    sizes = lengths.astype(numpy.int64) * numpy.dtype(TYPES[code]).itemsize
    with open(f"{prefix}.idx", "wb") as file:
        file.write(struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, code, len(sequences), len(documents) + 1))
        file.write(lengths.tobytes())
        file.write((numpy.cumsum(sizes) - sizes).tobytes())
        file.write(numpy.cumsum([0] + [len(document) for document in documents], dtype=numpy.int64).tobytes())


def answer(*command, data=None):
    return subprocess.run([str(part) for part in command], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True).stdout


def ids_of(program, model, texts):
    told = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    out, at, ids = answer(program, model, data=told), 0, []
    for _ in texts:
        (count,) = struct.unpack_from("<I", out, at)
        ids.append(list(struct.unpack_from(f"<{count}i", out, at + 4)))
        at += 4 + 4 * count
        at += 4 + struct.unpack_from("<I", out, at)[0]
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pimoe", required=True)
    parser.add_argument("--program", required=True, help="tests/tokenize_batch of the build")
    options = parser.parse_args()
    files = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))[:120]
    texts = [text for text in (file.read_text(encoding="utf-8") for file in files) if text]
    with tempfile.TemporaryDirectory(prefix="pimoe-megatron-") as scratch:
        folder = pathlib.Path(scratch)
        (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        answer(options.pimoe, "data", "build", "--output", folder / "ours", "--vocabulary", "1000", folder / "texts.jsonl")
        documents = read(folder / "ours")
        expected = ids_of(options.program, folder / "ours.model", texts)
        (end,) = {document[-1] for document in documents}
        assert [document[:-1] for document in documents] == expected and all(end not in document[:-1] for document in documents)
        print(f"read by numpy: {len(documents)} documents of {sum(map(len, documents)):,} tokens, the same")

        draw = random.Random(1)
        for code, kind in TYPES.items():
            most = min(int(numpy.iinfo(kind).max), 100_000)
            theirs = [[[draw.randrange(most + 1) for _ in range(draw.randrange(1, 50))] for _ in range(draw.randrange(1, 5))] for _ in range(100)]
            prefix = folder / f"theirs-{code}"
            write(prefix, code, theirs)
            answer(options.pimoe, "data", "verify", prefix)
            facts = json.loads(answer(options.pimoe, "data", "inspect", prefix, "--json"))
            stream = [token for document in theirs for sequence in document for token in sequence]
            sequences = sum(map(len, theirs))
            found = [facts[key] for key in ("documents", "sequences", "tokens", "largest_id")]
            assert found == [100, sequences, len(stream), max(stream)], (code, facts)
            counts = numpy.bincount(stream)
            share = counts[counts > 0] / len(stream)
            assert abs(facts["unigram_entropy"] + float((share * numpy.log(share)).sum())) < 1e-9, facts  # of all the tokens' values
            print(f"written by numpy as {numpy.dtype(kind).name}: {len(stream):,} tokens, the same")
    return 0


if __name__ == "__main__":
    sys.exit(main())
