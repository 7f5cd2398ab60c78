# Sourced by the scripts of this folder: Python environments with the packages of others, each made once in $PIMOE_DEPS/NAME.
# shellcheck shell=bash
#
# Where a comparison cannot be made (no network to fetch packages from, a torch that Python cannot import) the script ends with an error that says why;
# under PIMOE_MAY_SKIP=1, which CTest sets, with 77, for which CTest shows the test as skipped.
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"
source "$launch/versions.env"

# unavailable REASON [LINE...]
unavailable() {
  if [ "${PIMOE_MAY_SKIP:-0}" = 1 ]; then
    say "skipped: $1"
    exit 77
  fi
  fail "$@"
}

# needs PROGRAM...: files of the build folder. Sets what launch/setup.sh found too.
needs() {
  local program
  for program in "$@"; do
    [ -x "$PIMOE_BUILD/$program" ] || fail "$PIMOE_BUILD/$program is not there." "launch/build.sh builds it; PIMOE_BUILD names the build folder."
  done
  [ -e "$PIMOE_DEPS/env.sh" ] || unavailable "there is no $PIMOE_DEPS/env.sh." "launch/setup.sh writes it; run that first."
  source "$PIMOE_DEPS/env.sh"
}

# environment NAME SIZE "PACKAGE==VERSION ..." [NAME_OF_ANOTHER ...]: makes $PIMOE_DEPS/NAME, which sees the packages of the others too, and sets $python to
# its interpreter. Several scripts may ask for the same at a time. Packages that are named with a + in front are installed without those that they ask for.
environment() {
  local name=$1 size=$2 wanted=$3 folder=$PIMOE_DEPS/$1 package with=() alone=() base packages status=0
  shift 3
  python=$folder/bin/python3
  mkdir -p "$PIMOE_DEPS"
  exec 9>"$folder.lock"
  flock 9
  # Written last: an installation that was interrupted has none.
  if [ "$(cat "$folder/installed" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$folder"
    stage "Python environment $folder" "$PIMOE_DEPS/log/$name-venv.log" "$PIMOE_PYTHON" -m venv "$folder" 9>&- ||
      fail "$PIMOE_PYTHON could not make a virtual environment." "On Debian and Ubuntu its package is python3-venv."
    packages=$(packages_of "$python")
    for base in "$@"; do packages_of "$PIMOE_DEPS/$base/bin/python3"; done >"$packages/others.pth"
    for package in $wanted; do
      case $package in +*) alone+=("${package#+}") ;; *) with+=("$package") ;; esac
    done
    install_with_pip "$name" "$size" "${with[@]}"
    if [ ${#alone[@]} -gt 0 ]; then install_with_pip "$name" "$size" --no-deps "${alone[@]}"; fi
    echo "$wanted" >"$folder/installed"
  fi
  exec 9>&-
}

packages_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# install_with_pip NAME SIZE ARGUMENT...
install_with_pip() {
  local name=$1 size=$2 log=$PIMOE_DEPS/log/$1-pip.log
  shift 2
  stage "$* ($size)" "$log" "$python" -m pip --no-input --disable-pip-version-check --retries 2 --timeout 15 install --no-compile \
    --progress-bar off "$@" 9>&- && return 0
  if grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|connection broken' "$log"; then
    unavailable "no package index answers, and these are not in $PIMOE_DEPS yet: $*" "It needs PyPI, or the index that PIP_INDEX_URL names."
  fi
  fail "pip could not install: $*" "The log is $log. Disk space: $(df -h --output=avail "$PIMOE_DEPS" | tail -n 1 | tr -d ' ') are free."
}

# transformers and tokenizers, without torch.
interop_environment() {
  environment interop "60 MB to fetch" "transformers==$PIMOE_TRANSFORMERS_VERSION tokenizers==$PIMOE_TRANSFORMERS_TOKENIZERS_VERSION \
numpy==$PIMOE_NUMPY_VERSION sentencepiece==$PIMOE_SENTENCEPIECE_VERSION protobuf setuptools typing_extensions filelock sympy networkx jinja2==$PIMOE_JINJA2_VERSION fsspec"
}

# Alone: transformers asks for a later one, which decodes otherwise and has other tables of Unicode.
tokenizers_environment() {
  environment tokenizers "25 MB to fetch" "tokenizers==$PIMOE_TOKENIZERS_VERSION numpy==$PIMOE_NUMPY_VERSION"
}

lm_eval_environment() {
  interop_environment
  # accelerate asks for a torch of its own.
  environment lm_eval "150 MB to fetch" "lm_eval==$PIMOE_LM_EVAL_VERSION psutil +accelerate==$PIMOE_ACCELERATE_VERSION" interop
}

# lm_eval for models behind HTTP asks for these besides.
served_environment() {
  lm_eval_environment
  environment served "20 MB to fetch" "openai==$PIMOE_OPENAI_VERSION aiohttp tenacity requests tqdm" lm_eval interop
}

monitors_environment() {
  environment monitors "70 MB to fetch" "tensorboard==$PIMOE_TENSORBOARD_VERSION prometheus_client==$PIMOE_PROMETHEUS_CLIENT_VERSION \
grafana-foundation-sdk==$PIMOE_GRAFANA_SDK_VERSION"
}

# Lets $python import the torch of PIMOE_TORCH_FOLDER. A build without CUDA has that torch's wheel without the CUDA libraries which it was linked with:
# then stand-ins without content take their place, so that it loads, and computes on the CPU.
see_torch() {
  local stubs=$PIMOE_DEPS/torch-stubs answer
  # Written when pip has done its work, which otherwise would fetch the CUDA libraries for this torch.
  dirname "$PIMOE_TORCH_FOLDER" >"$(packages_of "$python")/torch.pth"
  if answer=$("$python" -c 'import torch' 2>&1); then return 0; fi
  exec 9>"$stubs.lock"
  flock 9
  if [ "$(cat "$stubs/of" 2>/dev/null)" != "$PIMOE_TORCH_FOLDER" ]; then
    rm -rf "$stubs"
    stage "stand-ins for the CUDA libraries that torch was linked with" "$PIMOE_DEPS/log/torch-stubs.log" \
      "$python" "$repository/tests/interop/torch_stubs.py" "$PIMOE_TORCH_FOLDER" "$stubs" 9>&- ||
      unavailable "Python cannot import torch, and no stand-ins for what is missing could be made: $(tail -n 1 <<<"$answer")"
    echo "$PIMOE_TORCH_FOLDER" >"$stubs/of"
  fi
  exec 9>&-
  export CUDA_VISIBLE_DEVICES='' LD_LIBRARY_PATH=$stubs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  answer=$("$python" -c 'import torch' 2>&1) || unavailable "Python cannot import torch in $PIMOE_TORCH_FOLDER: $(tail -n 1 <<<"$answer")" \
    "A build with CUDA (PIMOE_CUDA=on) has the whole wheel, which it can; or name a Python that has torch: PIMOE_TORCH=<python> launch/setup.sh"
}
