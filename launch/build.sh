#!/usr/bin/env bash
# Configures and builds in $PIMOE_BUILD (default: build) with what launch/setup.sh found.
#
#   launch/build.sh [-DNAME=VALUE ...] [TARGET ...]     default target: everything
#
#   PIMOE_UNITY=on   compile files in groups: half the work of a whole build, but more after a change. Files that cannot
#                    be compiled together are compiled alone (cmake/Unity.cmake)
#   PIMOE_PRECOMPILED=on   compile libtorch's headers once for many files: for builds from nothing (cmake/Precompiled.cmake)
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
unity=OFF
if [ "${PIMOE_UNITY:-off}" = on ]; then unity=ON; fi
precompiled=OFF
if [ "${PIMOE_PRECOMPILED:-off}" = on ]; then precompiled=ON; fi
configure+=(-DPIMOE_UNITY="$unity" -DPIMOE_PRECOMPILED="$precompiled")
if [ "$PIMOE_CUDA_BUILD" = ON ]; then configure+=(-DCUDAToolkit_ROOT="$CUDA_HOME"); fi
configure+=(${options[@]+"${options[@]}"})

stage "configure $PIMOE_BUILD" "$PIMOE_BUILD/configure.log" "${configure[@]}" ||
  fail "CMake could not configure $PIMOE_BUILD." "The whole output is in $PIMOE_BUILD/configure.log." \
    "A library that was not found is a package in launch/packages.txt: launch/setup.sh installs it or says that it cannot." \
    "Where compilers or Python have changed since the last build: rm -r $PIMOE_BUILD"

# Clones in other folders share what ccache has compiled: paths count from the repository on.
export CCACHE_BASEDIR=$repository CCACHE_NOHASHDIR=1
export NINJA_STATUS="[%f of %t] "
build() {   # [OPTION ...]
  stage "build with $jobs jobs" "$PIMOE_BUILD/build.log" "$PIMOE_CMAKE" --build "$PIMOE_BUILD" -j "$jobs" ${targets[@]+--target "${targets[@]}"} "$@"
}
# build_in_groups: that two files of a group define the same name is no fault of theirs, and no reason to go without a build. Groups that do not compile
# are taken apart; what is wrong with one of their files is found then.
build_in_groups() {
  local apart='' failed
  until build -- -k 0; do
    failed=$(sed -nE 's|^FAILED: .*CMakeFiles/([a-z_]+)\.dir/Unity/unity_([0-9]+)_.*|\1/\2|p' "$PIMOE_BUILD/build.log" | sort -u | paste -sd ';')
    [ -n "$failed" ] || return 1  # what fails is compiled alone already
    apart=$apart${apart:+;}$failed
    say "compiling each file of these groups alone, because they did not compile as one: ${failed//;/, }"
    stage "configure $PIMOE_BUILD" "$PIMOE_BUILD/configure.log" "${configure[@]}" "-DPIMOE_UNITY_APART=$apart" || return 1
  done
}
if [ "$unity" = ON ]; then build=build_in_groups; else build=build; fi
$build || {
  say "the first errors in $PIMOE_BUILD/build.log:" >&2
  grep -m 8 -E 'error:|undefined reference|Killed' "$PIMOE_BUILD/build.log" | sed 's/^/  | /' >&2 || true
  fail "the build of $PIMOE_BUILD did not succeed." "The whole output is in $PIMOE_BUILD/build.log." \
    "$((memory_kib / 1024)) MiB of memory were free for $jobs jobs; a compiler that was killed needs more."
}
