#!/usr/bin/env bash
# Compares with the programs that others use, on the CPU (docs/interop.md, docs/data.md). Each part fetches its packages once from PyPI (environments.sh).
#
#   tests/interop/run.sh [PART ...] [--quick] [OPTION ...]     default: blocks models exports
#
#   blocks      the MoE layer with the MoE blocks of Hugging Face transformers, in float32          --seeds N
#   models      whole models, imported, exported and trained, with transformers                     --seeds N, --family NAME
#   exports     the tokenizers that transformers finds in exported models with those that they were trained with   --strings N
#   tokenizers  tokenizer.json with the package tokenizers                                          --strings N, --seed N, --family NAME
#   chat        chat templates with transformers                                                --conversations N, --seed N, TEMPLATE.jinja ...
#   corpora     corpora with numpy's reading and writing of Megatron's layout
#   packages    fetches the packages of all comparisons, and compares nothing
#
# --quick: every family once, within a minute or so each, as CTest has them (ctest -R interop). PIMOE_BUILD (default: build) holds the programs.
source "$(dirname "${BASH_SOURCE[0]}")/environments.sh"
script=interop
here=$repository/tests/interop

parts=()
options=()
while [ $# -gt 0 ]; do
  case $1 in
    blocks | models | exports | tokenizers | chat | corpora | packages) parts+=("$1") && shift ;;
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --*) options=("$@") && break ;;
    *) fail "there is no part '$1'." "Known: blocks models exports tokenizers chat corpora packages. tests/interop/run.sh --help" ;;
  esac
done
if [ ${#parts[@]} -eq 0 ]; then parts=(blocks models exports); fi

export OMP_NUM_THREADS=1
for part in "${parts[@]}"; do
  case $part in
    packages)
      needs
      lm_eval_environment
      see_torch
      monitors_environment
      ;;
    blocks)
      needs tests/moe_block
      interop_environment
      see_torch
      "$python" "$here/transformers_blocks.py" --program "$PIMOE_BUILD/tests/moe_block" ${options[@]+"${options[@]}"}
      ;;
    models)
      needs pimoe tests/whole_model
      interop_environment
      see_torch
      "$python" "$here/transformers_models.py" --pimoe "$PIMOE_BUILD/pimoe" --whole-model "$PIMOE_BUILD/tests/whole_model" ${options[@]+"${options[@]}"}
      ;;
    exports)
      needs pimoe tests/tokenize_batch
      interop_environment
      see_torch
      "$python" "$here/exported_tokenizers.py" --pimoe "$PIMOE_BUILD/pimoe" --program "$PIMOE_BUILD/tests/tokenize_batch" ${options[@]+"${options[@]}"}
      ;;
    tokenizers)
      needs tests/tokenize_batch
      tokenizers_environment
      "$python" "$here/tokenizer_differences.py" --program "$PIMOE_BUILD/tests/tokenize_batch" ${options[@]+"${options[@]}"}
      ;;
    chat)
      needs tests/chat_batch
      interop_environment
      see_torch
      "$python" "$here/chat_templates.py" --program "$PIMOE_BUILD/tests/chat_batch" ${options[@]+"${options[@]}"}
      ;;
    corpora)
      needs pimoe tests/tokenize_batch
      interop_environment
      "$python" "$here/megatron_layout.py" --pimoe "$PIMOE_BUILD/pimoe" --program "$PIMOE_BUILD/tests/tokenize_batch"
      ;;
  esac
done
