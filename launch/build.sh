#!/usr/bin/env bash
# Configures and builds in $PIMOE_BUILD (default: build) with what launch/setup.sh found.
#
#   launch/build.sh [-DNAME=VALUE ...] [TARGET ...]     default target: everything
source "$(dirname "$0")/common.sh"

options=()
targets=()
for argument in "$@"; do
  case $argument in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    -D*) options+=("$argument") ;;
    -*) fail "build.sh knows no option '$argument'." "launch/build.sh --help" ;;
    *) targets+=("$argument") ;;
  esac
done

[ -e "$PIMOE_DEPS/env.sh" ] || fail "there is no $PIMOE_DEPS/env.sh." "launch/setup.sh writes it; run that first."
source "$PIMOE_DEPS/env.sh"

# Two gigabytes for each compiler: what is free now, or what a container may use, bounds their number as the cores do.
jobs=$(nproc)
memory_kib=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
container_limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
if [ "$container_limit" != max ] && [ $((container_limit / 1024)) -lt "$memory_kib" ]; then memory_kib=$((container_limit / 1024)); fi
if [ $((memory_kib / 2097152)) -lt "$jobs" ]; then jobs=$((memory_kib / 2097152)); fi
if [ "$jobs" -lt 1 ]; then jobs=1; fi

configure=("$PIMOE_CMAKE" -S "$repository" -B "$PIMOE_BUILD" -G Ninja -DPIMOE_PYTHON="$PIMOE_PYTHON" -DPIMOE_CUDA="$PIMOE_CUDA_BUILD")
if [ "$PIMOE_CUDA_BUILD" = ON ]; then configure+=(-DCUDAToolkit_ROOT="$CUDA_HOME"); fi
configure+=(${options[@]+"${options[@]}"})

stage "configure $PIMOE_BUILD" "$PIMOE_BUILD/configure.log" "${configure[@]}" ||
  fail "CMake could not configure $PIMOE_BUILD." "The whole output is in $PIMOE_BUILD/configure.log." \
    "A library that was not found is a package in launch/packages.txt: launch/setup.sh installs it or says that it cannot." \
    "Where compilers or Python have changed since the last build: rm -r $PIMOE_BUILD"

# Clones in other folders share what ccache has compiled: paths count from the repository on.
export CCACHE_BASEDIR=$repository CCACHE_NOHASHDIR=1
export NINJA_STATUS="[%f of %t] "
stage "build with $jobs jobs" "$PIMOE_BUILD/build.log" "$PIMOE_CMAKE" --build "$PIMOE_BUILD" -j "$jobs" \
  ${targets[@]+--target "${targets[@]}"} || {
  say "the first errors in $PIMOE_BUILD/build.log:" >&2
  grep -m 8 -E 'error:|undefined reference|Killed' "$PIMOE_BUILD/build.log" | sed 's/^/  | /' >&2 || true
  fail "the build of $PIMOE_BUILD did not succeed." "The whole output is in $PIMOE_BUILD/build.log." \
    "$((memory_kib / 1024)) MiB of memory were free for $jobs jobs; a compiler that was killed needs more."
}
