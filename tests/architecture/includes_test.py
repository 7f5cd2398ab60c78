#!/usr/bin/env python3
"""Each file of src/ includes what it uses, as far as that can be read without a compiler: builds that compile files in groups (cmake/Unity.cmake) would not notice.

    tests/architecture/includes_test.py [unittest option ...]

A type that one header alone declares must be among what the file includes, directly or by its headers. What the standard library has must be so in files that
include nothing of libtorch, whose headers bring most of it along; through which header of ours does not matter.
"""
import collections
import functools
import pathlib
import re
import sys
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "src"
HEADERS = (".h", ".cuh")
STANDARD = {name: header for header, names in {
    "algorithm": "sort find find_if any_of all_of min max clamp copy transform nth_element",
    "array": "array", "atomic": "atomic", "condition_variable": "condition_variable", "deque": "deque",
    "fstream": "ifstream ofstream", "functional": "function", "future": "promise future", "iostream": "cout cerr", "map": "map",
    "memory": "unique_ptr shared_ptr make_unique make_shared", "mutex": "mutex lock_guard unique_lock", "numeric": "accumulate iota",
    "optional": "optional nullopt", "regex": "regex", "set": "set", "span": "span", "sstream": "ostringstream istringstream",
    "string": "string to_string", "string_view": "string_view", "thread": "thread", "tuple": "tuple tie",
    "unordered_map": "unordered_map", "unordered_set": "unordered_set", "variant": "variant", "vector": "vector",
}.items() for name in names.split()}


class Code:
    """Files by their names below src/."""

    def __init__(self, texts):
        self.included = {file: re.findall(r'(?m)^\s*#\s*include\s*[<"]([^>"]+)[>"]', text) for file, text in texts.items()}
        self.code = {file: self.without_words(text) for file, text in texts.items()}
        declaration = re.compile(r"\b(?:class|struct|enum|using|typename)(?:\.\.\.)?\s+(?:class\s+|alignas\([^)]*\)\s*)?([A-Z]\w*)\b")
        self.declared = {file: set(declaration.findall(code)) for file, code in self.code.items()}
        self.files_of = collections.defaultdict(set)
        for file, names in self.declared.items():
            for name in names:
                self.files_of[name].add(file)

    @staticmethod
    def without_words(text):
        """Without comments, literals and lines for the preprocessor."""
        text = re.sub(r'R"(\w*)\((?:.|\n)*?\)\1"', '""', text)
        text = re.sub(r"//[^\n]*|/\*(?:.|\n)*?\*/", "", text)
        text = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)
        return re.sub(r"(?m)^\s*#.*$", "", text)

    @functools.lru_cache(maxsize=None)
    def seen_by(self, file):
        """The file, and all that it includes."""
        seen, left = set(), [file]
        while left:
            name = left.pop()
            if name not in seen:
                seen.add(name)
                left += self.included.get(name, [])
        return seen

    def missing(self, file):
        """Pairs of what is used and the header that the file does not see."""
        code, seen = self.code[file], self.seen_by(file)
        known = set().union(*(self.declared.get(name, set()) for name in seen))
        for name in sorted(set(re.findall(r"(?<![\w.>:~])(?:pimoe::)?([A-Z]\w*)\b", code)) - known):
            files = self.files_of.get(name, set())
            if len(files) == 1 and next(iter(files)).endswith(HEADERS):
                yield name, next(iter(files))
        if not any(name.startswith(("ATen/", "c10/", "torch/")) for name in seen):
            for name in sorted(set(re.findall(r"\bstd::(\w+)", code)) & STANDARD.keys()):
                if STANDARD[name] not in seen:
                    yield "std::" + name, STANDARD[name]


class Includes(unittest.TestCase):
    def test_a_type_of_a_header_that_is_not_seen_is_missing(self):
        code = Code({"a/one.h": "class One {};", "a/two.h": '#include "a/one.h"\nstruct Two { One one; };', "a/good.cpp": '#include "a/two.h"\nOne one;',
                     "a/bad.cpp": "Two two;  // One\nat::One other;", "a/own.cpp": "struct One {};\nOne one;"})
        self.assertEqual(list(code.missing("a/two.h")) + list(code.missing("a/good.cpp")) + list(code.missing("a/own.cpp")), [])
        self.assertEqual(list(code.missing("a/bad.cpp")), [("Two", "a/two.h")])

    def test_so_is_what_the_standard_library_has_but_beside_libtorch(self):
        code = Code({"a/bad.cpp": "#include <string>\nstd::string text; std::vector<int> all;", "a/good.cpp": "#include <vector>\nstd::vector<int> all;",
                     "a/torch.cpp": "#include <ATen/core/Tensor.h>\nstd::vector<int> all;"})
        self.assertEqual(list(code.missing("a/bad.cpp")), [("std::vector", "vector")])
        self.assertEqual(list(code.missing("a/good.cpp")) + list(code.missing("a/torch.cpp")), [])

    def test_no_file_of_the_source_misses_one(self):
        code = Code({str(file.relative_to(SOURCE)): file.read_text() for file in SOURCE.rglob("*") if file.suffix in HEADERS + (".cpp", ".cu")})
        self.assertGreater(len(code.code), 500)
        for file in sorted(code.code):
            for name, header in code.missing(file):
                with self.subTest(file=f"src/{file}"):
                    self.fail(f"src/{file} uses {name}, and does not include {header}")


if __name__ == "__main__":
    sys.exit(unittest.main())
