# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# Completion of tidemark(1) for bash: the program itself says what fits.

_tidemark()
{
    local rest=$COMP_LINE words=() word trimmed prefix= mode all i program

    # Bash breaks words at "=" and ":", too: what is not apart in the line is one word.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        trimmed=${rest#"${rest%%[![:space:]]*}"}
        if ((i)) && [[ $trimmed == "$rest" ]]; then
            prefix=${words[-1]}
            words[-1]+=$word
        else
            prefix=
            words+=("$word")
        fi
        rest=${trimmed#"$word"}
    done
    [[ $word == [=:] ]] && prefix+=$word word=
    program=${words[0]/#\~\//$HOME/} # the line as typed, before its expansion
    type -P -- "$program" >/dev/null || program=tidemark
    mapfile -t all < <("$program" --complete "${words[@]:1}" 2>/dev/null)
    mode=${all[0]}
    COMPREPLY=()
    for word in "${all[@]:1}"; do
        word=${word%%$'\t'*}
        [[ $word == *= ]] && compopt -o nospace 2>/dev/null
        word=${word#"$prefix"}
        [[ $mode == files ]] || printf -v word %q "$word" # with files readline does it
        COMPREPLY+=("$word")
    done
    if [[ $mode == files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t all < <(compgen -f -- "${words[-1]#"$prefix"}")
        COMPREPLY+=("${all[@]}")
    fi
}

complete -F _tidemark tidemark
