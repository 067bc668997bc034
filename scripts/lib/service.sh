# shellcheck shell=bash
# What `install` does to the system, one function a step. Sourced after setup.sh.

readonly TOP=/opt/edgebeat
readonly CURRENT="$TOP/current"
readonly SETTINGS=/etc/edgebeat/agent.toml
readonly UNITS=/etc/systemd/system
readonly UNIT=edgebeat.service
readonly DROP_IN="$UNITS/$UNIT.d/notify-reload.conf"
readonly RULES=/etc/udev/rules.d/60-edgebeat.rules
readonly COMMAND=/usr/local/bin/edgebeat

# A version takes 350 MB, and the one before it stays.
readonly SPACE_MB_MIN=600
# What the manylinux_2_28 wheels of ONNX Runtime, OpenCV and numpy need.
readonly GLIBC_MIN=2.28
# After READY the service must live so long before the version before it may be forgotten: a crash at the first frames
# shows within it.
readonly SETTLE_S=${SETTLE_S:-10}

# check_device: ends with the reason where this cannot work, before anything is changed.
check_device() {
    local machine glibc free_mb
    machine="$(uname -m)"
    [[ "$machine" == x86_64 || "$machine" == aarch64 ]] ||
        die "$machine is not supported: there are wheels for x86_64 and aarch64 alone." \
            "On a Raspberry Pi use the 64-bit Raspberry Pi OS (uname -m says aarch64)."
    glibc="$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2 || true)"
    [[ -n "$glibc" ]] || die "this system has no glibc (Alpine?): the wheels need glibc $GLIBC_MIN or later"
    [[ "$(printf '%s\n' "$GLIBC_MIN" "$glibc" | sort -V | head -n 1)" == "$GLIBC_MIN" ]] ||
        die "glibc $glibc is too old: the wheels need $GLIBC_MIN or later (Debian 10, Ubuntu 20.04)"
    ((EUID == 0)) || die "installing a service needs root: sudo $0"
    command -v systemctl >/dev/null && [[ -d /run/systemd/system ]] ||
        die "systemd does not run here: there is nothing to install a service into." \
            "To run the agent by hand: pip install edgebeat, then edgebeat run --config FILE"
    mkdir -p "$TOP/versions" 2>/dev/null && touch "$TOP/.writable" 2>/dev/null ||
        die "$TOP cannot be written: is the root file system read-only? (mount -o remount,rw /)"
    rm -f "$TOP/.writable"
    free_mb="$(df --output=avail -BM "$TOP" | tail -n 1 | tr -dc 0-9)"
    ((free_mb >= SPACE_MB_MIN)) || die "$TOP: $free_mb MB are free, a version and the one before it need $SPACE_MB_MIN"
}

# make_version FOLDER WHEELS CONSTRAINTS: a virtual environment with the agent, complete or gone.
make_version() {
    local folder="$1" wheels="$2" constraints="$3" python wheel from=()
    python="$(find_python)"
    remove_halves
    mkdir -p "$folder"
    # shellcheck disable=SC2064  # This folder.
    trap "rm -rf '$folder'" EXIT
    wheel="$(find "$wheels" -maxdepth 1 -name 'edgebeat-*.whl' | sort -V | tail -n 1)"
    [[ -n "$wheel" ]] || die "$wheels holds no edgebeat-*.whl: make it with scripts/bundle"
    # A folder with more than our own wheel is a bundle, and no network is asked.
    (($(find "$wheels" -maxdepth 1 -name '*.whl' | wc -l) == 1)) || from=(--no-index --find-links "$wheels")
    say "making $folder with $("$python" --version)"
    run_quietly "$python" -m venv "$folder"
    say "installing $(basename "$wheel")${from:+, offline}"
    if ! "$folder/bin/python" -m pip install --disable-pip-version-check --no-input --quiet "${from[@]}" \
        -c "$constraints" "${wheel}[metrics]"; then
        ((${#from[@]})) && die "$wheels does not hold what is missing above, for $(uname -m) and" \
            "$("$python" --version): scripts/bundle --arch ... --python ... makes a bundle for another"
        die "this needs the network, or a bundle: scripts/bundle makes one on another machine"
    fi
    run_quietly "$folder/bin/edgebeat" --version
    sync -f "$folder"
    touch "$folder/.complete"
    sync -f "$folder"
    trap - EXIT
}

# remove_halves: versions whose installation was interrupted, by a power cut for example.
remove_halves() {
    local folder
    for folder in "$TOP"/versions/*/; do
        [[ -d "$folder" && ! -e "$folder/.complete" ]] || continue
        # Whatever a power cut did to its mark: what runs stays.
        [[ "$(readlink -f "$folder")" != "$(readlink -f "$CURRENT")" ]] || continue
        say "removing $folder, which was never completed"
        rm -rf "$folder"
    done
}

# remove_version FOLDER: its mark first, so that what a power cut leaves of it is known for a half.
remove_version() {
    rm -f "$1/.complete"
    rm -rf "$1"
}

# place_file SOURCE TARGET: one rename, so that there is a whole file at any time; one that is the same stays.
place_file() {
    local part
    cmp -s "$1" "$2" && return
    part="$(dirname "$2")/.$(basename "$2").part"
    install -m 644 "$1" "$part"
    sync "$part"
    mv -T "$part" "$2"
}

# place_link TARGET LINK: the same for a symbolic link.
place_link() {
    ln -sfn "$1" "$2.next"
    mv -T "$2.next" "$2"
}

# place_settings FOLDER: the example where there is no file yet; what is there stays.
place_settings() {
    local shared="$1/share/edgebeat"
    mkdir -p /etc/edgebeat
    if [[ ! -e "$SETTINGS" ]]; then
        # The device's id is the host's name unless somebody gives it another.
        sed -e "s|\"config/models|\"$CURRENT/share/edgebeat/config/models|" -e 's|^id = |# id = |' \
            "$shared/config/agent.toml" >"$SETTINGS.part"
        mv "$SETTINGS.part" "$SETTINGS"
        say "wrote $SETTINGS: name your camera and your broker there"
    fi
    if [[ ! -e /etc/edgebeat/mqtt-password ]]; then
        (umask 077 && : >/etc/edgebeat/mqtt-password)
    fi
}

# place_units FOLDER: units, udev rule and, where it fits, the drop-in of a version.
place_units() {
    local shared="$1/share/edgebeat/systemd" version
    place_file "$shared/edgebeat.service" "$UNITS/edgebeat.service"
    place_file "$shared/edgebeat@.service" "$UNITS/edgebeat@.service"
    [[ ! -d /etc/udev/rules.d ]] || place_file "$shared/60-edgebeat.rules" "$RULES"
    version="$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
    if ((version >= 253)); then
        mkdir -p "$(dirname "$DROP_IN")"
        place_file "$shared/drop-ins/notify-reload.conf" "$DROP_IN"
    else
        rm -f "$DROP_IN"
    fi
    systemctl daemon-reload
    udevadm control --reload 2>/dev/null || true
}

# check_settings FOLDER: with that version, its models loaded and tried; its own words say what is wrong. What the
# settings name below /opt/edgebeat/current is looked for in that version, which is not current yet.
check_settings() {
    local copy status=0
    copy="$(mktemp)"
    sed "s|$CURRENT/|$1/|g" "$SETTINGS" >"$copy"
    "$1/bin/edgebeat" check --load --config "$copy" 2>&1 >/dev/null | sed "s|$copy|$SETTINGS|g" >&2 || status=1
    rm -f "$copy"
    return "$status"
}

# switch_to FOLDER: one rename, so that there is a version at any time.
switch_to() {
    place_link "$1" "$CURRENT"
    sync -f "$TOP"
    [[ "$(readlink "$COMMAND")" == "$CURRENT/bin/edgebeat" ]] || place_link "$CURRENT/bin/edgebeat" "$COMMAND"
}

# start_service: whether it became ready, and lives after SETTLE_S.
start_service() {
    systemctl reset-failed "$UNIT" 2>/dev/null || true
    systemctl restart "$UNIT" || return 1
    local restarts
    restarts="$(systemctl show --property=NRestarts --value "$UNIT")"
    sleep "$SETTLE_S"
    systemctl is-active --quiet "$UNIT" && [[ "$(systemctl show --property=NRestarts --value "$UNIT")" == "$restarts" ]]
}

# tell_failure: why the service did not start, as far as the journal knows.
tell_failure() {
    systemctl --no-pager --lines=0 status "$UNIT" >&2 || true
    journalctl --no-pager --unit="$UNIT" --lines=15 --output=cat >&2 2>/dev/null || true
}

# prune KEPT...: every version but these.
prune() {
    local folder kept
    for folder in "$TOP"/versions/*; do
        for kept in "$@"; do
            [[ "$folder" != "$kept" ]] || continue 2
        done
        remove_version "$folder"
    done
}
