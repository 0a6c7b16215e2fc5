# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# Completion of tidemark(1) for fish: the program itself says what fits.

function __tidemark_words
    set -l words (commandline -opc) (commandline -ct)
    set -l program (string replace -r '^~/' "$HOME/" -- $words[1]) # the line as typed
    type -q -- $program; or set program tidemark
    set -l found ($program --complete $words[2..] 2>/dev/null)
    if test "$found[1]" = files
        __fish_complete_path (string replace -r '^--[a-z-]+=' '' -- $words[-1])
    end
    printf '%s\n' $found[2..]
end

complete -c tidemark -f -a '(__tidemark_words)'
