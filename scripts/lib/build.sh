# shellcheck shell=bash
# What `install` and `bundle` share: a wheel of this checkout. Sourced after setup.sh, from the checkout's top folder.

# build_wheel FOLDER: leaves edgebeat-*.whl there. From a copy: a build leaves its own files beside what it reads.
build_wheel() {
    local folder="$1" copy python
    python="$(find_python)"
    copy="$(mktemp -d)"
    cp -r pyproject.toml README.md LICENSE NOTICE constraints.txt agent config scripts systemd "$copy"
    "$python" -m venv "$copy/.venv"
    HINT="it needs the network, or a bundle in its place: scripts/bundle makes one on another machine" \
        run_quietly "$copy/.venv/bin/python" -m pip wheel --disable-pip-version-check --no-input --no-deps \
        --wheel-dir "$folder" "$copy"
    rm -rf "$copy"
}
