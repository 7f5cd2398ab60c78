#!/usr/bin/env python3
"""What launch/parquet_to_jsonl.py writes and refuses. Needs pyarrow: without it the test says so and ends with 77."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch" / "parquet_to_jsonl.py"


def convert(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, encoding="utf-8")


class ParquetToJsonl(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)

    def write(self, name, columns, **options):
        path = self.folder / name
        parquet.write_table(pyarrow.table(columns), path, **options)
        return path

    def test_every_row_is_a_line_in_order(self):
        texts = [f"text {i}\nof two lines \U0001f600 \x00 \u2028" for i in range(2500)] + ["", None]
        path = self.write("a.parquet", {"id": list(range(len(texts))), "content": texts}, row_group_size=700)
        done = convert("--text-key", "content", "--rows", "100", path, path)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([json.loads(line)["content"] for line in done.stdout.split("\n")[:-1]], texts[:-1] * 2)
        self.assertIn("5,002 texts of 2 file(s); 2 rows without one", done.stderr)

    def test_large_strings_are_read(self):
        path = self.write("a.parquet", {"text": pyarrow.array(["a", "b"], pyarrow.large_string())})
        self.assertEqual(convert(path).stdout, '{"text": "a"}\n{"text": "b"}\n')

    def test_what_has_no_text_is_named(self):
        path = self.write("a.parquet", {"text": [1, 2], "body": ["a", "b"]})
        for arguments, words in [((path,), "the column 'text' holds int64"), (("--text-key", "boby", path), "has no column 'boby' but text, body"),
                                 ((SCRIPT,), "arquet"), ((self.folder / "none.parquet",), "none.parquet")]:
            done = convert(*arguments)
            self.assertEqual((done.returncode, done.stdout), (65, ""), done.stderr)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        print("skipped: this Python has no pyarrow")
        sys.exit(77)
    unittest.main()
