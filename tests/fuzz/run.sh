#!/usr/bin/env bash
# Builds the fuzz targets by clang with libFuzzer, address and undefined-behaviour sanitizers (build-fuzz, five minutes the first time on two
# cores), and runs them one after the other. What they find that is new stays in build-fuzz/corpus, and the next run goes on from there.
#
#   tests/fuzz/run.sh [SECONDS] [TARGET ...]     default: 60 seconds for each of config token_file manifest shard ceilings hugging_face hugging_face_folder tokenizer_json openai_request http_request
#
# Says for each target how often it ran, what it covers (libFuzzer's features: edges by how often they were taken), and crashes, which
# also are hangs of 10 s, 4 GiB of memory, leaks and exceptions that the reader's header does not name. Ends with 1 if there was one; the
# input is kept in build-fuzz/found: mend the reader, and add the input to tests/fuzz/corpus/TARGET.
source "$(dirname "$0")/../../launch/common.sh"

seconds=60
case ${1:-} in
  "") ;;
  -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
  *[!0-9]*) ;;
  *) seconds=$1 && shift ;;
esac
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then targets=(config token_file manifest shard ceilings hugging_face hugging_face_folder tokenizer_json openai_request http_request); fi
for target in "${targets[@]}"; do
  [ -e "$repository/tests/fuzz/${target}_fuzz.cpp" ] ||
    fail "there is no target '$target'." "Known: config token_file manifest shard ceilings hugging_face hugging_face_folder tokenizer_json openai_request http_request. tests/fuzz/run.sh --help"
done

compiler=$(command -v clang++ || true)
[ -n "$compiler" ] || fail "libFuzzer is part of clang, and there is no clang++ here." "Debian, Ubuntu: apt-get install clang"
if ! echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
  "$compiler" -x c++ -fsanitize=fuzzer,address,undefined - -o /dev/null 2>/dev/null; then
  fail "$compiler cannot link a fuzzer: the sanitizers' libraries are missing." \
    "Debian, Ubuntu: apt-get install clang, with its recommended packages (libclang-rt-*-dev, or libclang-common-*-dev)"
fi

export PIMOE_CUDA=off PIMOE_BUILD=$repository/build-fuzz
"$launch/setup.sh"
"$launch/build.sh" -DPIMOE_FUZZ=ON -DCMAKE_C_COMPILER="$(command -v clang)" -DCMAKE_CXX_COMPILER="$compiler" "${targets[@]/#/fuzz_}"

# Files that readers open by name lie in memory where that can be.
memory=/dev/shm
[ -w $memory ] || memory=${TMPDIR:-/tmp}
scratch=$(mktemp -d "$memory/pimoe-fuzz-run-XXXXXX")
trap 'rm -rf "$scratch"' EXIT

status=0
for target in "${targets[@]}"; do
  found=$PIMOE_BUILD/found/$target
  log=$PIMOE_BUILD/$target.log
  mkdir -p "$found" "$PIMOE_BUILD/corpus/$target"
  options=(-timeout=10 -rss_limit_mb=4096 -max_total_time="$seconds" -artifact_prefix="$found/" -print_final_stats=1)
  dictionary=$repository/tests/fuzz/dictionaries/${target%_folder}
  if [ -e "$dictionary" ]; then options+=(-dict="$dictionary"); fi
  crashes=0
  (cd "$scratch" && TMPDIR=$scratch ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 \
    LSAN_OPTIONS=suppressions=$repository/tests/fuzz/leaks.supp:print_suppressions=0 \
    "$PIMOE_BUILD/tests/fuzz_$target" "${options[@]}" "$PIMOE_BUILD/corpus/$target" "$repository/tests/fuzz/corpus/$target") \
    >"$log" 2>&1 </dev/null || crashes=1
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  features=$(grep -o ' ft: [0-9]*' "$log" | tail -n 1 | tr -dc 0-9) || true
  say "$target: ${executions:-0} executions in $seconds s, ${features:-0} features, $crashes crashes"
  if [ $crashes -gt 0 ]; then
    status=1
    grep -m 3 -E 'ERROR|SUMMARY|does not hold|what\(\)|runtime error' "$log" | cut -c 1-300 | sed 's/^/  | /' || true
    say "  the input is in $found, the log is $log"
  fi
done
exit $status
