"""Makes libraries that stand in for those which torch's wheel was linked with and which are not there, so that Python can import it for the CPU.

    torch_stubs.py TORCH_FOLDER OUTPUT_FOLDER

A build without CUDA takes the wheel alone, without the 2 GB of CUDA libraries that it names. Loading it resolves their names and calls none of
them as long as no GPU is asked for: each stand-in has the names that torch asks its library for, with their versions, as functions that end the process.
"""

import os
import pathlib
import re
import subprocess
import sys


def readelf(*arguments):
    return subprocess.run(["readelf", "-W", *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def needed(library):
    return re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("-d", library))


def versions(library):
    """Name of a library -> the versions of its names that `library` asks for."""
    found, name = {}, None
    for line in readelf("-V", library).splitlines():
        if match := re.search(r" File: (\S+)", line):
            name = match[1]
        elif (match := re.search(r" Name: (\S+)", line)) and name:
            found.setdefault(name, set()).add(match[1])
    return found


def names(library, defined):
    """Functions and data that a library has, or asks others for: name -> version, or ''."""
    found = {}
    for line in readelf("--dyn-syms", library).splitlines():
        words = line.split()
        if len(words) >= 8 and words[0][:-1].isdigit() and (words[6] != "UND") == defined and (defined or words[4] == "GLOBAL"):
            name, _, version = words[7].partition("@")
            found[name] = version.lstrip("@")
    return found


def main():
    torch, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    output.mkdir(parents=True)
    present = {file.name: file for file in (torch.parent / "nvidia").rglob("*.so*")} | {file.name: file for file in (torch / "lib").glob("*.so*")}
    missing, version_of, asked, there = set(), {}, {}, set()
    pending, seen = ["libtorch_python.so", "libtorch_global_deps.so"], set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in present:
            if re.match("lib(cu|nccl|nv)", name):  # the rest is the system's
                missing.add(name)
            continue
        library = present[name]
        pending += needed(library)
        for other, wanted in versions(library).items():
            version_of.setdefault(other, set()).update(wanted)
        asked |= names(library, defined=False)
        there |= set(names(library, defined=True))
    # Names without a version may be of any library that has none: all of them go into one.
    plain = {name for name, version in asked.items() if not version and name not in there and re.fullmatch("(cu|nccl|nv)[A-Za-z_0-9]+", name)}
    for library in sorted(missing):
        wanted = version_of.get(library, set())
        functions = sorted(name for name, version in asked.items() if version in wanted)
        if not wanted:
            functions, plain = sorted(plain), set()
        options = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{library}", "-o", str(output / library)]
        if wanted:
            script = output / "versions"
            script.write_text("".join(f"{version} {{ global: *; }};\n" for version in sorted(wanted)))
            options.append(f"-Wl,--version-script={script}")
        source = "".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in functions)
        subprocess.run([os.environ.get("CC", "gcc"), *options, "-x", "c", "-"], input=source, text=True, check=True)
        print(f"{library}: {len(functions)} names")


if __name__ == "__main__":
    main()
