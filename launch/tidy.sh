#!/usr/bin/env bash
# Reads src/ with clang-tidy, as .clang-tidy says. Slow: up to a minute a file.
#
#   launch/tidy.sh [FILE ...]     default: every .cpp file of src/
source "$(dirname "$0")/common.sh"

# Older ones take a lambda that captures a structured binding for an error.
oldest=16
tool=
for candidate in clang-tidy-{21..16} clang-tidy; do
  found=$("$candidate" --version 2>/dev/null | sed -n 's/.*version \([0-9]*\).*/\1/p') || true
  if [ "${found:-0}" -ge $oldest ]; then tool=$candidate && break; fi
done
[ -n "$tool" ] || fail "there is no clang-tidy $oldest or newer here." \
  "Debian, Ubuntu: apt-get install clang-tidy-$oldest. Fedora, RHEL: dnf install clang-tools-extra."

"$launch/setup.sh"
source "$PIMOE_DEPS/env.sh"
"$launch/build.sh" help >/dev/null   # configures; clang-tidy reads the compile commands

cd "$repository"
files=("$@")
if [ ${#files[@]} -eq 0 ]; then mapfile -t files < <(find src -name '*.cpp' | sort); fi

# What is compiled in this build alone: a file for CUDA has no compile command in a build without it.
status=0
checked=0
for file in "${files[@]}"; do
  if ! grep -q "$(realpath "$file")" "$PIMOE_BUILD/compile_commands.json"; then
    say "$file: not part of this build"
    continue
  fi
  checked=$((checked + 1))
  say "[$checked] $file"
  "$tool" --quiet -p "$PIMOE_BUILD" "$file" 2>/dev/null || status=1
done
if [ "$checked" -eq 0 ]; then fail "no file was checked."; fi
if [ $status -ne 0 ]; then fail "clang-tidy has findings (see above)."; fi
say "$checked files, no findings"
