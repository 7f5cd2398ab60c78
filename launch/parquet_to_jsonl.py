#!/usr/bin/env python3
"""Writes the texts of parquet files as .jsonl, one line a row, for `pimoe data build`.

    python3 -m pip install pyarrow
    launch/parquet_to_jsonl.py --text-key content *.parquet | zstd >texts.jsonl.zst
    build/pimoe data build --output data/mine --vocabulary 8192 texts.jsonl.zst

Reads a batch of rows at a time, whatever the files' size, and the one column alone. Rows without a text (null) are left out and counted. Ends with 65
where a file has no such column, or one that holds no text; nothing else is a reason to leave out a row.
"""

import argparse
import json
import sys


def texts_of(path, key, rows, parquet, pyarrow):
    """Yields the column's values, None for null."""
    file = parquet.ParquetFile(path)
    names = file.schema_arrow.names
    if key not in names:
        raise ValueError(f"{path} has no column {key!r} but {', '.join(names)}")
    kind = file.schema_arrow.field(key).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise ValueError(f"{path}: the column {key!r} holds {kind}, and must hold strings")
    for batch in file.iter_batches(batch_size=rows, columns=[key]):
        yield from batch.column(0).to_pylist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text-key", default="text", help="column with the text, and member of the lines (default: text)")
    parser.add_argument("--rows", type=int, default=1000, help="rows in memory at a time (default: 1000)")
    parser.add_argument("files", nargs="+", metavar="FILE.parquet")
    options = parser.parse_args()
    if options.rows < 1:
        parser.error(f"--rows ({options.rows}) must be at least 1")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        print("parquet_to_jsonl: this Python has no pyarrow: python3 -m pip install pyarrow", file=sys.stderr)
        return 69
    written = left_out = 0
    try:
        for path in options.files:
            for text in texts_of(path, options.text_key, options.rows, parquet, pyarrow):
                if text is None:
                    left_out += 1
                    continue
                sys.stdout.write(json.dumps({options.text_key: text}, ensure_ascii=False) + "\n")
                written += 1
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has enough
        sys.stderr.close()
        return 74
    except (ValueError, OSError) as error:  # pyarrow's own errors are of these kinds
        print(f"parquet_to_jsonl: {error}", file=sys.stderr)
        return 65
    print(f"parquet_to_jsonl: {written:,} texts of {len(options.files)} file(s); {left_out:,} rows without one left out", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="strict", newline="\n")
    sys.exit(main())
