#!/usr/bin/env bash
# Sets up, builds, and runs the tests that this machine can run.
#
#   launch/test.sh [LABEL ...]
#
#   unit     one program for each folder of src/        ranks    the same under mpirun with 1, 2, 3 and 4 ranks
#   system   the binary as a user runs it               gpu      needs a GPU, and a CUDA build
#   slurm    jobs on a Slurm of its own; only when asked for
#   interop  all comparisons with transformers, tokenizers and others from PyPI, of which system has short forms; only when asked for
#
# Without a label: all but slurm and interop. PIMOE_CUDA, PIMOE_BUILD and PIMOE_DEPS as for launch/setup.sh.
source "$(dirname "$0")/common.sh"

labels=()
for argument in "$@"; do
  case $argument in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    unit | ranks | system | gpu | slurm | interop) labels+=("$argument") ;;
    *) echo "test.sh: there is no label '$argument': unit, ranks, system, gpu, slurm or interop" >&2 && exit 64 ;;
  esac
done

begin=$SECONDS
"$launch/setup.sh"
setup_seconds=$((SECONDS - begin))
source "$PIMOE_DEPS/env.sh"

# What keeps the gpu tests from running here, if anything.
no_gpu=
if [ "$(gpu_count)" -eq 0 ]; then
  no_gpu="no GPU is visible"
elif [ "$PIMOE_CUDA_BUILD" = OFF ]; then
  no_gpu="this is a build without CUDA (PIMOE_CUDA=$PIMOE_CUDA)"
fi
if [ ${#labels[@]} -eq 0 ]; then
  labels=(unit ranks system)
  if [ -z "$no_gpu" ]; then labels+=(gpu); else say "not run: gpu, because $no_gpu"; fi
  for label in slurm interop; do say "not run: $label, because it is run only when asked for (launch/test.sh $label)"; done
elif [ -n "$no_gpu" ] && [[ " ${labels[*]} " == *" gpu "* ]]; then
  fail "the label gpu was asked for, but $no_gpu."
fi

begin=$SECONDS
"$launch/build.sh"
build_seconds=$((SECONDS - begin))

begin=$SECONDS
failed=()
chosen=$(printf '%s\n' "${labels[@]}" | grep -vE '^(slurm|interop)$' | paste -sd '|') || true
if [[ " ${labels[*]} " == *" slurm "* ]]; then
  "$repository/tests/slurm/run.sh" --install || failed+=(slurm)
fi
if [[ " ${labels[*]} " == *" interop "* ]]; then
  "$repository/tests/interop/run.sh" blocks models exports tokenizers corpora || failed+=(interop)
  for comparison in monitors lm_eval dashboard; do "$repository/tests/interop/$comparison.sh" || failed+=("$comparison"); done
fi
if [ -n "$chosen" ]; then
  "$PIMOE_CTEST" --test-dir "$PIMOE_BUILD" -L "^($chosen)\$" -j "$(nproc)" --output-on-failure --no-tests=error ||
    failed+=("${chosen//|/ }")
  # CTest names what it skipped, and keeps the reasons to itself.
  { grep -hE '^([a-z_0-9]+: )?skipped[:,] ' "$PIMOE_BUILD/Testing/Temporary/LastTest.log" || true; } | sort -u | sed "s/^/$script: /"
fi

printf '\n'
say "set-up $setup_seconds s, build $build_seconds s, tests $((SECONDS - begin)) s"
if [ ${#failed[@]} -gt 0 ]; then fail "tests failed: ${failed[*]}"; fi
