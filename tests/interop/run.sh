#!/usr/bin/env bash
# Compares with Hugging Face transformers, on the CPU in float32 (docs/interop.md): the MoE layer with its MoE blocks, and whole models that are
# imported and exported. Or compares tokenizer.json with the package tokenizers, chat templates with transformers, or corpora with numpy's reading of
# Megatron's layout (docs/data.md).
#
#   tests/interop/run.sh [--seeds N]
#   tests/interop/run.sh --tokenizers [--strings N] [--seed N] [--family NAME]
#   tests/interop/run.sh --corpora
#   tests/interop/run.sh --chat [--conversations N] [--seed N] [TEMPLATE.jinja ...]
#
# PIMOE_BUILD (default: build) holds pimoe, tests/moe_block and tests/whole_model, or tests/tokenize_batch, or tests/chat_batch. transformers and torch come from PyPI into
# $PIMOE_DEPS/interop, tokenizers and numpy into $PIMOE_DEPS/tokenizers, transformers without torch into $PIMOE_DEPS/chat, once.
source "$(dirname "$0")/../../launch/common.sh"
source "$launch/versions.env"
script=interop

subject=models
programs="pimoe tests/moe_block tests/whole_model"
environment=$PIMOE_DEPS/interop
wanted="transformers==$PIMOE_TRANSFORMERS_VERSION torch==$PIMOE_TORCH_VERSION"
# torch's wheel cannot be imported without its CUDA libraries, also where no GPU is used.
size="2.5 GB to fetch, 5 GB on disk"
case ${1:-} in
  --tokenizers | --corpora)
    subject=${1#--}
    shift
    programs="pimoe tests/tokenize_batch"
    environment=$PIMOE_DEPS/tokenizers
    wanted="tokenizers==$PIMOE_TOKENIZERS_VERSION numpy==$PIMOE_NUMPY_VERSION"
    size="25 MB to fetch"
    ;;
  --chat)
    subject=chat
    shift
    programs="tests/chat_batch"
    environment=$PIMOE_DEPS/chat
    # Templates need neither torch nor a model.
    wanted="transformers==$PIMOE_CHAT_TRANSFORMERS_VERSION jinja2==$PIMOE_JINJA2_VERSION"
    size="40 MB to fetch"
    ;;
esac

for program in $programs; do
  [ -x "$PIMOE_BUILD/$program" ] || fail "$PIMOE_BUILD/$program is not there." "launch/build.sh builds it; PIMOE_BUILD names the build folder."
done
[ -e "$PIMOE_DEPS/env.sh" ] || fail "there is no $PIMOE_DEPS/env.sh." "launch/setup.sh writes it; run that first."
source "$PIMOE_DEPS/env.sh"

# Written last: an installation that was interrupted has none.
if [ "$(cat "$environment/installed" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$environment"
  stage "Python environment $environment" "$PIMOE_DEPS/log/$subject-venv.log" "$PIMOE_PYTHON" -m venv "$environment" ||
    fail "$PIMOE_PYTHON could not make a virtual environment." "On Debian and Ubuntu its package is python3-venv."
  # shellcheck disable=SC2086  # a list of words
  stage "$wanted ($size)" "$PIMOE_DEPS/log/$subject-pip.log" "$environment/bin/python3" -m pip --no-input --disable-pip-version-check install \
    --no-compile --progress-bar off $wanted ||
    fail "pip could not install: $wanted" "It needs a package index (PyPI, or the one that PIP_INDEX_URL names)" \
      "and disk space: $(df -h --output=avail "$PIMOE_DEPS" | tail -n 1 | tr -d ' ') are free."
  echo "$wanted" >"$environment/installed"
fi

if [ $subject = tokenizers ]; then
  exec "$environment/bin/python3" "$repository/tests/interop/tokenizer_differences.py" --program "$PIMOE_BUILD/tests/tokenize_batch" "$@"
elif [ $subject = chat ]; then
  exec "$environment/bin/python3" "$repository/tests/interop/chat_templates.py" --program "$PIMOE_BUILD/tests/chat_batch" "$@"
elif [ $subject = corpora ]; then
  exec "$environment/bin/python3" "$repository/tests/interop/megatron_layout.py" --pimoe "$PIMOE_BUILD/pimoe" \
    --program "$PIMOE_BUILD/tests/tokenize_batch" "$@"
fi
"$environment/bin/python3" "$repository/tests/interop/transformers_blocks.py" --program "$PIMOE_BUILD/tests/moe_block" "$@"
"$environment/bin/python3" "$repository/tests/interop/transformers_models.py" --pimoe "$PIMOE_BUILD/pimoe" \
  --whole-model "$PIMOE_BUILD/tests/whole_model" "$@"
