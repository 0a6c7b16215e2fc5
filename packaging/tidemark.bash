# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# Completion of tidemark(1) for bash: commands and options as --help shows them, those of QMP from the
# tables that the program has, else file names.

_tidemark()
{
    local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local path=() at last command help commands options repository points

    for at in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ $at != -* ]]; then
            # Only words that are commands lead further; what is after an option may be its value.
            commands=$("$program" "${path[@]}" --help 2>/dev/null |
                sed -n '/^Commands:$/,/^$/s/^  \([a-z-]*\) .*/\1/p')
            if [[ $'\n'$commands$'\n' == *$'\n'"$at"$'\n'* ]]; then
                path+=("$at")
            elif [[ $last != -* ]]; then
                command=$at
                break
            fi
        fi
        last=$at
    done
    help=$("$program" "${path[@]}" --help 2>/dev/null)
    for at in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ -e $at/tidemark-repository.json ]] && repository=$at
    done
    COMPREPLY=()
    if [[ $word == -* ]]; then
        options=$(sed -n 's/^  \(-[a-zA-Z], \|    \)\?\(--[a-z0-9-]*\).*/\2/p' <<<"$help")
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
        return
    fi
    commands=$(sed -n '/^Commands:$/,/^$/s/^  \([a-z-]*\) .*/\1/p' <<<"$help")
    if [[ -n $commands ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
    elif [[ $before == --format || $before == --backing-format || $before == --source-format ||
            ${path[0]} == image && $before == -[fF] ]]; then
        mapfile -t COMPREPLY < <(compgen -W "raw qcow2" -- "$word")
    elif [[ ${path[0]} == qmp && $before == qmp ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$("$program" qmp --complete)" -- "$word")
    elif [[ ${path[0]} == qmp && $word != = && $before != = && -n $command ]]; then
        options=$("$program" qmp --complete "$command" 2>/dev/null)
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
        compopt -o nospace 2>/dev/null
    elif [[ -n $repository && ( $before == --at || ${path[0]} == @(info|verify|forget) ) && $before != --against ]]; then
        points=$(compgen -G "$repository/*/manifest.json" | sed 's|/manifest\.json$||; s|.*/||')
        mapfile -t COMPREPLY < <(compgen -W "$points latest" -- "$word")
    else
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    fi
}

complete -F _tidemark tidemark
