# shellcheck shell=bash
# What the tests in a system of their own share: roots made by debootstrap, kept from run to run. Sourced after setup.sh.

# Not below the checkout: whatever walks it, as setuptools does, would walk through /proc in there.
readonly ROOTS="${TEST_ROOTS:-/var/tmp/edgebeat-roots}"
readonly SUITE=bookworm

# need_commands PACKAGE COMMAND...: ends with what to install where a command is missing.
need_commands() {
    local package="$1" name
    shift
    for name in "$@"; do
        PATH="$PATH:/usr/sbin" command -v "$name" >/dev/null || die "$name is missing: sudo apt-get install $package"
    done
}

# make_root ARCH PACKAGES: leaves a Debian in $ROOTS/$SUITE-ARCH with these packages; minutes, once.
make_root() {
    local arch="$1" packages="$2" root="$ROOTS/$SUITE-$1" mirror
    [[ ! -e "$root/.complete" ]] || return 0
    rm -rf "$root"
    mkdir -p "$ROOTS"
    # The mirror that this machine uses itself, else debootstrap's own.
    mirror="$(awk '/^URIs:/ {print $2; exit} /^deb / {print $2; exit}' \
        /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)"
    say "making a Debian $SUITE for $arch in $root (minutes)"
    run_quietly env PATH="$PATH:/usr/sbin:/sbin" debootstrap --arch="$arch" --variant=minbase \
        --include="$packages" "$SUITE" "$root" ${mirror:+"$mirror"}
    touch "$root/.complete"
}
