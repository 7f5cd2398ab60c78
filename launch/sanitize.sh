#!/usr/bin/env bash
# Runs the unit tests under the address and undefined-behaviour sanitizers (build-debug), and those of the data folder, which has
# threads of its own, under the thread sanitizer (build-tsan).
#
#   launch/sanitize.sh [address] [thread]     default: both
source "$(dirname "$0")/common.sh"

kinds=("$@")
if [ ${#kinds[@]} -eq 0 ]; then kinds=(address thread); fi
for kind in "${kinds[@]}"; do
  case $kind in address | thread) ;; *) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 64 ;; esac
done

export PIMOE_CUDA=off
"$launch/setup.sh"
source "$PIMOE_DEPS/env.sh"

# sanitized_tests FOLDER CMAKE_OPTION TEST_REGEX [TARGET ...]
sanitized_tests() {
  PIMOE_BUILD=$repository/$1 "$launch/build.sh" -DCMAKE_BUILD_TYPE=Debug "$2" "${@:4}"
  "$PIMOE_CTEST" --test-dir "$repository/$1" -L '^unit$' -R "$3" --output-on-failure --no-tests=error
}

for kind in "${kinds[@]}"; do
  if [ "$kind" = address ]; then
    # Open MPI and its plugins leak by design. Two tests measure memory, which the sanitizer holds on to after it was freed.
    say "not run under the address sanitizer: HostDevice.MemoryUseFollowsAllocationAndRelease, CorpusBuilder.MemoryDoesNotGrowWithTheInput"
    GTEST_FILTER=-HostDevice.MemoryUseFollowsAllocationAndRelease:CorpusBuilder.MemoryDoesNotGrowWithTheInput \
      ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 sanitized_tests build-debug -DPIMOE_SANITIZE=ON .
  else
    # libgomp is not built for the thread sanitizer, which reports its barriers as races: one OpenMP thread.
    OMP_NUM_THREADS=1 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
      sanitized_tests build-tsan -DPIMOE_THREAD_SANITIZE=ON '^data\.' data_unit_test
  fi
done
