#!/usr/bin/env bash
# Installs what PiMoE needs and is not there yet, and writes what it found to $PIMOE_DEPS/env.sh. Running it again changes nothing.
#
#   launch/setup.sh
#
#   PIMOE_CUDA=auto|on|off   build the CUDA code; auto: where a GPU is visible. `on` needs neither a GPU nor an installed CUDA toolkit
#   PIMOE_TORCH=<python>     take libtorch from this Python's torch package
#   PIMOE_DEPS=.deps         where everything goes that does not come from the system's package manager
source "$(dirname "$0")/common.sh"
source "$launch/versions.env"

case ${1:-} in
  "") ;;
  -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
  *) fail "setup.sh takes no arguments, but got '$1'." "PIMOE_CUDA, PIMOE_TORCH and PIMOE_DEPS steer it: launch/setup.sh --help" ;;
esac

begin=$SECONDS
logs=$PIMOE_DEPS/log
environment=$PIMOE_DEPS/python   # ours; made only where no Python of the machine has a fitting torch, or for CMake or nvcc
installing=$PIMOE_DEPS/installing
mkdir -p "$PIMOE_DEPS"

cuda=$PIMOE_CUDA
if [ "$cuda" = auto ]; then
  if [ "$(gpu_count)" -gt 0 ]; then cuda=on; else cuda=off; fi
fi

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }   # VERSION MINIMUM

# System packages.

# present DEBIAN_NAME PROBE
present() {
  if command -v dpkg-query >/dev/null && [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; then return 0; fi
  local name=${2#*:} folder
  case $2 in
    command:*) command -v "$name" >/dev/null || [ -x "/usr/lib64/openmpi/bin/$name" ] ;;
    module:*) python3 -c "import $name" 2>/dev/null ;;
    file:*) [ -e "$name" ] ;;
    header:*)
      for folder in {/usr,/usr/local}/include{,/openmpi-x86_64,/hdf5/serial,/"$(uname -m)-linux-gnu"{,/mpi}} \
        ${CPATH:+${CPATH//:/ }} ${CONDA_PREFIX:+"$CONDA_PREFIX/include"}; do
        if [ -e "$folder/$name" ]; then return 0; fi
      done
      return 1
      ;;
  esac
}

# missing_packages COLUMN WHEN...: what is absent, by its Debian (1) or RHEL (2) name.
missing_packages() {
  local column=$1 debian rhel probe when
  shift
  while read -r debian rhel probe when; do
    case $debian in "" | \#*) continue ;; esac
    if [[ " $* " == *" $when "* ]] && ! present "$debian" "$probe"; then
      if [ "$column" = 1 ]; then echo "$debian"; else echo "$rhel"; fi
    fi
  done <"$launch/packages.txt"
}

# install_packages WHEN...
install_packages() {
  local missing sudo=()
  missing=$(missing_packages 1 "$@" | tr '\n' ' ')
  if [ -z "$missing" ]; then return 0; fi
  missing=$(missing_packages 1 "$@" wanted optional | tr '\n' ' ')

  local by_hand=("Debian, Ubuntu:           apt-get install $missing"
    "Fedora, RHEL with EPEL:   dnf install $(missing_packages 2 "$@" wanted optional | tr '\n' ' ')")
  if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi
  if ! command -v apt-get >/dev/null || { [ "$(id -u)" -ne 0 ] && ! may_sudo; }; then
    if [ -z "${packages_named:-}" ]; then
      say "these packages are not there, and this script cannot install them (it needs apt-get, and root or sudo); going on without:"
      printf '  %s\n' "${by_hand[@]}"
    fi
    packages_named=yes
    return 0
  fi
  local apt=(${sudo[@]+"${sudo[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -q)
  # A failed update is no reason to stop: the lists that are there may do.
  stage "package lists (apt-get update)" "$logs/apt-update.log" "${apt[@]}" update || true
  say "installing $missing"
  # shellcheck disable=SC2086  # a list of words
  stage "system packages (apt-get install)" "$logs/apt-install.log" "${apt[@]}" install -y --no-install-recommends $missing ||
    fail "apt-get could not install: $missing" "If the network is the reason, mend it and run this again; nothing is done twice." \
      "To install them by hand:" "${by_hand[@]}"
}

# Packages without which one thing less works. Where there is no network, that is found out once.
install_wanted() {
  local missing tried=$PIMOE_DEPS/wanted-packages-tried
  missing=$(missing_packages 1 wanted | tr '\n' ' ')
  if [ -z "$missing" ] || [ "$(cat "$tried" 2>/dev/null)" = "$missing" ]; then return 0; fi
  if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi
    local apt=(${sudo[@]+"${sudo[@]}"} env DEBIAN_FRONTEND=noninteractive timeout 120 apt-get -o DPkg::Lock::Timeout=60 -o Acquire::Retries=0 -o Acquire::http::Timeout=5 -q)
    stage "package lists for $missing" "$logs/apt-wanted.log" timeout 20 "${apt[@]}" update >/dev/null 2>&1 || true
    # shellcheck disable=SC2086  # a list of words
    stage "installing $missing" "$logs/apt-wanted.log" "${apt[@]}" install -y --no-install-recommends $missing >/dev/null 2>&1 || true
    missing=$(missing_packages 1 wanted | tr '\n' ' ')
    if [ -z "$missing" ]; then return 0; fi
  fi
  say "going on without $missing: tokenizer.json files will be refused (Debian, Ubuntu: apt-get install $missing)"
  echo "$missing" >"$tried"
}

# With a password only where somebody is there to type it.
may_sudo() {
  command -v sudo >/dev/null || return 1
  sudo -n true 2>/dev/null || { [ -t 0 ] && say "installing system packages needs sudo" && sudo -v; }
}

# Python and torch.

# probe_torch PYTHON: sets torch_python, torch_folder and torch_version if its torch fits; else torch_misfit says why not.
probe_torch() {
  local answer
  torch_misfit="there is no '$1'"
  command -v "$1" >/dev/null || return 1
  if ! answer=$("$1" "$launch/probe_torch.py" "$PIMOE_TORCH_VERSION" "$PIMOE_CUDA_RELEASE" "$cuda" 2>&1); then
    torch_misfit=$(tail -n 1 <<<"$answer")
    return 1
  fi
  IFS=$'\t' read -r torch_python torch_folder torch_version <<<"$answer"
}

find_torch() {
  if [ -n "${PIMOE_TORCH:-}" ]; then
    probe_torch "$PIMOE_TORCH" || fail "PIMOE_TORCH is '$PIMOE_TORCH', which cannot be used: $torch_misfit." \
      "Name a Python that has torch $PIMOE_TORCH_VERSION, or unset PIMOE_TORCH to have one installed in $environment."
    return 0
  fi
  probe_torch "$environment/bin/python3" || probe_torch python3
}

python_is_new_enough() {
  "$1" -c "
import sys
first, last = (tuple(map(int, v.split('.'))) for v in '$PIMOE_PYTHON_VERSIONS'.split())
sys.exit(not first <= sys.version_info[:2] <= last)" 2>/dev/null
}

make_environment() {
  # A set-up that was killed while pip worked leaves packages that look whole and are not.
  if [ -e "$installing" ]; then
    say "an earlier set-up was interrupted; making $environment anew"
    rm -rf "$environment"
    rm -f "$installing"
  fi
  if [ -x "$environment/bin/python3" ] && "$environment/bin/python3" -m pip --version >/dev/null 2>&1; then return 0; fi
  install_packages always python
  local base
  for base in python3 /usr/bin/python3; do
    if python_is_new_enough "$base" && "$base" -c 'import ensurepip, venv' 2>/dev/null; then break; fi
    base=
  done
  [ -n "$base" ] || fail "no Python of version ${PIMOE_PYTHON_VERSIONS/ / to } with the modules venv and ensurepip was found." \
    "torch $PIMOE_TORCH_VERSION is installed into a virtual environment. Install python3 and python3-venv (RHEL: python3-pip)," \
    "or name a Python that has torch already: PIMOE_TORCH=<python> launch/setup.sh"
  rm -rf "$environment"
  stage "Python environment $environment" "$logs/venv.log" "$base" -m venv "$environment" ||
    fail "$base could not make a virtual environment." "On Debian and Ubuntu its package is python3-venv."
}

# pip_install TITLE ARGUMENT...
pip_install() {
  local title=$1
  shift
  touch "$installing"
  local pip=("$environment/bin/python3" -m pip --no-input --disable-pip-version-check)
  stage "$title" "$logs/pip.log" "${pip[@]}" install --no-compile --progress-bar off "$@" ||
    fail "pip could not install: $*" "It needs a package index (PyPI, or the one that PIP_INDEX_URL names)" \
      "and disk space: $(df -h --output=avail "$PIMOE_DEPS" | tail -n 1 | tr -d ' ') are free." \
      "Run this again when that is mended. With torch on the machine already: PIMOE_TORCH=<python> launch/setup.sh"
  rm -f "$installing"
}

install_torch() {
  make_environment
  # shellcheck disable=SC2086  # a list of words
  if [ "$cuda" = on ]; then
    pip_install "torch $PIMOE_TORCH_VERSION with its CUDA libraries (2.5 GB to fetch, 5 GB on disk)" "torch==$PIMOE_TORCH_VERSION"
  else
    pip_install "torch $PIMOE_TORCH_VERSION for the CPU (0.5 GB to fetch, 1.3 GB on disk)" \
      --no-deps "torch==$PIMOE_TORCH_VERSION" $PIMOE_CPU_WHEELS
  fi
  probe_torch "$environment/bin/python3" || fail "torch was installed but cannot be used: $torch_misfit." "The log is $logs/pip.log"
}

# CMake.

cmake_version() { "$1" --version 2>/dev/null | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p'; }

find_cmake() {
  local minimum=$PIMOE_CMAKE_AT_LEAST
  if [ "$cuda" = on ]; then minimum=$PIMOE_CMAKE_AT_LEAST_CUDA; fi
  for cmake in cmake "$environment/bin/cmake"; do
    if at_least "$(cmake_version "$cmake")" "$minimum"; then
      cmake=$(command -v "$cmake")
      return 0
    fi
  done
  return 1
}

# The CUDA compiler.

nvcc_fits() {
  command -v "$1" >/dev/null && "$1" --version 2>/dev/null | grep -q "release ${PIMOE_CUDA_RELEASE//./\\.}," && toolkit_of "$1"
}

# Sets nvcc and toolkit. nvcc itself says where its toolkit is; its path does not, where it is a wrapper script.
toolkit_of() {
  nvcc=$(command -v "$1")
  toolkit=$("$nvcc" --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p' | head -n 1)
  toolkit=$(cd "$toolkit" 2>/dev/null && pwd) && [ -e "$toolkit/include/cuda_runtime.h" ]
}

find_nvcc() {
  local candidate
  for candidate in ${CUDACXX:+"$CUDACXX"} nvcc "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" "/usr/local/cuda-$PIMOE_CUDA_RELEASE/bin/nvcc" \
    "$PIMOE_DEPS/cuda/bin/nvcc"; do
    if nvcc_fits "$candidate"; then return 0; fi
  done
  return 1
}

install_nvcc() {
  make_environment
  # shellcheck disable=SC2086  # a list of words
  pip_install "CUDA compiler $PIMOE_CUDA_RELEASE from PyPI" --no-deps $PIMOE_TOOLKIT_WHEELS
  lay_out_toolkit
  nvcc_fits "$PIMOE_DEPS/cuda/bin/nvcc" ||
    fail "the CUDA compiler was installed in $PIMOE_DEPS/cuda, but does not run or is not of release $PIMOE_CUDA_RELEASE." \
    "Install the CUDA toolkit $PIMOE_CUDA_RELEASE and put its nvcc on the PATH, or build without: PIMOE_CUDA=off launch/setup.sh"
}

# The wheels lack what nvcc's linker and CMake look for: lib64, and libraries without a version in their name. nvcc resolves symbolic
# links and would look beside the original, so that its own files are hard links (or copies, where those are not possible).
lay_out_toolkit() {
  local wheels new=$PIMOE_DEPS/cuda.new library name
  wheels=$("$environment/bin/python3" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13
  rm -rf "$new" "$PIMOE_DEPS/cuda"
  mkdir -p "$new/lib64"
  cp -al "$wheels/bin" "$wheels/nvvm" "$new/" 2>/dev/null || cp -a "$wheels/bin" "$wheels/nvvm" "$new/"
  ln -s "$wheels/include" "$new/include"
  ln -s lib64 "$new/lib"
  for library in "$wheels"/lib/*; do
    name=$(basename "$library")
    ln -sf "$library" "$new/lib64/$name"
    case $name in *.so.*) ln -sf "$library" "$new/lib64/${name%%.so.*}.so" ;; esac
  done
  mv "$new" "$PIMOE_DEPS/cuda"
}

# All of it.

write_environment() {
  local file=$PIMOE_DEPS/env.sh
  {
    echo "# Written by launch/setup.sh; the build and launch scripts read it. \`source\` it to call cmake and pimoe by hand."
    printf 'export PIMOE_PYTHON=%q PIMOE_TORCH_FOLDER=%q\n' "$torch_python" "$torch_folder"
    printf 'export PIMOE_CMAKE=%q PIMOE_CTEST=%q\n' "$cmake" "$(dirname "$cmake")/ctest"
    printf 'export PIMOE_CUDA_BUILD=%s\n' "${cuda^^}"
    if [ "$cuda" = on ]; then printf 'export CUDACXX=%q CUDA_HOME=%q\n' "$nvcc" "$toolkit"; fi
    # RHEL keeps Open MPI off the PATH until a module is loaded.
    if ! command -v mpirun >/dev/null && [ -x /usr/lib64/openmpi/bin/mpirun ]; then
      # shellcheck disable=SC2016  # to be expanded by the reader of the file
      echo 'export PATH=/usr/lib64/openmpi/bin:$PATH'
    fi
  } >"$file.new"
  mv "$file.new" "$file"
}

if [ -e "$installing" ]; then make_environment; fi
if find_torch; then
  install_packages always
else
  install_packages always python
  find_torch || install_torch   # python3 is new, perhaps
fi
install_wanted
find_cmake || { make_environment && pip_install "CMake $PIMOE_CMAKE_VERSION from PyPI" "cmake==$PIMOE_CMAKE_VERSION" && find_cmake; } ||
  fail "CMake $PIMOE_CMAKE_VERSION was installed in $environment but does not run."
if [ "$cuda" = on ]; then find_nvcc || install_nvcc; fi
write_environment

with="for the CPU alone"
if [ "$cuda" = on ]; then with="with CUDA $PIMOE_CUDA_RELEASE in $toolkit"; fi
say "ready, $with; torch $torch_version in $torch_folder, cmake $(cmake_version "$cmake"); $((SECONDS - begin)) s"
