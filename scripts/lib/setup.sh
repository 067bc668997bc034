# shellcheck shell=bash
# What the scripts share: a virtual environment in .venv that holds this checkout. Sourced, from its top folder.

# say TEXT: one line of progress with the seconds since the script began. On standard error, so that what a
# command prints stays clean.
say() {
    printf '[%4d s] %s\n' "$SECONDS" "$*" >&2
}

# die TEXT...: one line each, then the end.
die() {
    printf 'edgebeat: %s\n' "$@" >&2
    exit 1
}

# find_python: prints the path of the first Python that is new enough and can make virtual environments.
find_python() {
    local name found="" without_venv=""
    for name in ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.13 python3.14; do
        command -v "$name" >/dev/null || continue
        found="$name"
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        # On Debian and Ubuntu the venv module is there without its package, and ensurepip is not.
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
        without_venv="$name"
    done
    if [[ -n "$without_venv" ]]; then
        die "$without_venv cannot make virtual environments. On Debian and Ubuntu:" \
            "    sudo apt-get install python3-venv"
    elif [[ -n "$found" ]]; then
        die "needs Python 3.11 or later, and $found is $("$found" --version 2>&1 | tail -n 1)." \
            "Debian 12 and Ubuntu 24.04 have it; another can be named with PYTHON=/path/to/python3 $0"
    fi
    die "needs Python 3.11 or later. On Debian and Ubuntu:" "    sudo apt-get install python3 python3-venv"
}

# ensure_venv EXTRAS: leaves .venv with this checkout and the extras (such as demo), at the versions in
# constraints.txt. Costs 20 ms when nothing changed since the last time.
ensure_venv() {
    local extras="$1" python stamp wanted
    stamp=".venv/.installed-$extras"
    # The path is part of it: a checkout that was moved has a virtual environment that points elsewhere.
    wanted="$({ pwd -P; cat pyproject.toml constraints.txt; } | sha256sum)"
    if [[ -f "$stamp" && "$(<"$stamp")" == "$wanted" ]] && .venv/bin/python -c '' 2>/dev/null; then
        return
    fi
    python="$(find_python)"
    # An interpreter that the system replaced, or a folder that was moved (every script in it names the old place):
    # neither can be mended, only made anew.
    if [[ -d .venv ]] && ! { .venv/bin/python -m pip && grep -F "$(pwd -P)/.venv" .venv/bin/activate; } &>/dev/null; then
        say "removing .venv, which is broken or was moved"
        rm -rf .venv
    fi
    if [[ ! -d .venv ]]; then
        say "making .venv with $("$python" --version) ($python)"
        run_quietly "$python" -m venv .venv
    fi
    rm -f "$stamp"
    say "installing edgebeat[$extras] into .venv (once; some 200 MB to download if they are not cached)"
    tell_size_of .venv &
    local teller=$!
    # shellcheck disable=SC2064  # This process, not whichever is the last one when the script ends.
    trap "kill $teller 2>/dev/null || true" EXIT
    HINT="it needs the network once: is it there?" run_quietly .venv/bin/python -m pip install --disable-pip-version-check --no-input \
        -c constraints.txt -e ".[$extras]"
    kill "$teller" 2>/dev/null || true
    trap - EXIT
    printf '%s\n' "$wanted" >"$stamp"
    say "installed: $(.venv/bin/edgebeat --version)"
}

# tell_size_of FOLDER: a sign of life every 10 s, in the background, for as long as the script lives.
tell_size_of() {
    # The sleep holds neither our output nor our input open when this is ended in the middle of it.
    while sleep 10 </dev/null &>/dev/null && kill -0 $$ 2>/dev/null; do
        say "  still installing: $(du -sm "$1" 2>/dev/null | cut -f 1) MB in $1"
    done
}

# run_quietly COMMAND...: shows what it printed only if it fails; $HINT, where it is set, says what may help.
run_quietly() {
    local output
    if ! output="$("$@" 2>&1)"; then
        printf '%s\n' "$output" >&2
        die "this failed, see above: $*" ${HINT:+"$HINT"}
    fi
}
