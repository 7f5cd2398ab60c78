#!/usr/bin/env bash
# Brings the C++ and CUDA files of src/, tests/ and examples/ into the style of .clang-format.
#
#   launch/format.sh [--check]     --check changes nothing, names each file that differs, and ends with status 1 if one does, with 77 where it
#                                  cannot tell: there is no clang-format of the version
#
# Other versions of clang-format lay out some lines otherwise, so that it must be this one:
version=14
source "$(dirname "$0")/common.sh"

case ${1:-} in
  "") mode=(-i) ;;
  --check) mode=(--dry-run --Werror -ferror-limit=1) ;;
  *) sed -n '2,/^version/{/^#/s/^# \{0,1\}//p}' "$0" && exit 64 ;;
esac

tool=
for candidate in "clang-format-$version" clang-format; do
  if "$candidate" --version 2>/dev/null | grep -q "version $version\."; then tool=$candidate && break; fi
done
if [ -z "$tool" ]; then
  say "no clang-format $version here (Debian, Ubuntu: apt-get install clang-format-$version); nothing done"
  exit 77
fi

cd "$repository"
mapfile -t files < <(find src tests examples -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
if "$tool" "${mode[@]}" "${files[@]}"; then
  say "${#files[@]} files are in the style of .clang-format"
else
  fail "files differ from .clang-format (see above)." "launch/format.sh mends them."
fi
