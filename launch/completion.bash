# bash completion for pimoe: subcommands, options, configuration keys (key=), files. `source` it, or install it (cmake --install does).
# Words come from the binary's own --help and --print-config, asked once a shell.

declare -gA _pimoe_words

# _pimoe_remember NAME COMMAND...: the command's output in REPLY, from the second time on without running it. Not in a subshell, which would forget.
_pimoe_remember() {
  local name=$1
  shift
  [ -n "${_pimoe_words[$name]+set}" ] || _pimoe_words[$name]=$("$@" 2>/dev/null)
  REPLY=${_pimoe_words[$name]}
}

# Each leaves words in REPLY. Lines of a help's section "Subcommands:", first words:
_pimoe_subcommands() {
  _pimoe_remember "help $*" "$@" --help
  REPLY=$(awk '/^Subcommands:/ {on = 1; next} /^[^ ]/ {on = 0} on && /^  [a-z]/ {print $1}' <<<"$REPLY")
}
_pimoe_options() {
  _pimoe_remember "help $*" "$@" --help
  REPLY=$(grep -oE -- '--[a-z][a-z0-9-]*' <<<"$REPLY" | sort -u)
}

# Every key, "train.steps=": those of an empty configuration, which needs no corpus.
_pimoe_keys() {
  _pimoe_remember keys "$1" train /dev/null data.train=x model.vocabulary=64 --print-config
  REPLY=$(awk '
    /^ *[a-z_0-9]+:/ {
      depth = (match($0, /[^ ]/) - 1) / 2
      key = $1; sub(/:.*/, "", key)
      path[depth] = key
      full = path[0]
      for (level = 1; level <= depth; ++level) full = full "." path[level]
      if ($2 != "" && $2 !~ /^#/) print full "="
    }' <<<"$REPLY")
}

_pimoe() {
  local pimoe=${COMP_WORDS[0]} current prefix='' index word configuration='' command=() REPLY
  # `=` ends a word of readline's: put key=value together again.
  local line=${COMP_LINE:0:COMP_POINT}
  current=${line##*[[:space:]]}
  for ((index = 1; index < COMP_CWORD; ++index)); do
    word=${COMP_WORDS[index]}
    case $word in
      *.yaml | *.yml) configuration=$word ;;
      -* | *=*) ;;
      *)
        _pimoe_subcommands "$pimoe" "${command[@]}"
        if grep -qFx -- "$word" <<<"$REPLY"; then command+=("$word"); fi
        ;;
    esac
  done
  COMPREPLY=()
  case $current in
    -*)
      _pimoe_options "$pimoe" "${command[@]}"
      mapfile -t COMPREPLY < <(compgen -W "$REPLY" -- "$current")
      ;;
    *=*)  # a value: files
      prefix=${current%%=*}=
      mapfile -t COMPREPLY < <(compgen -f -- "${current#"$prefix"}")
      compopt -o filenames
      ;;
    *)
      _pimoe_subcommands "$pimoe" "${command[@]}"
      if [ -z "$REPLY" ] && [ -n "$configuration" ]; then
        _pimoe_keys "$pimoe"
        compopt -o nospace
      fi
      mapfile -t COMPREPLY < <(compgen -W "$REPLY" -- "$current")
      if [ -z "$REPLY" ] || [ ${#COMPREPLY[@]} -eq 0 ]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt +o nospace -o filenames
      fi
      ;;
  esac
}
complete -F _pimoe pimoe
