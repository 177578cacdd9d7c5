# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the tests of the overlay's build share.  They are called with
# OVERLAY_SRCDIR, OVERLAY_BUILDDIR, OVERLAY_OVS (the pristine source of Open
# vSwitch) and PYTHON3 in the environment, and print TAP.

set -u
srcdir=${OVERLAY_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
builddir=${OVERLAY_BUILDDIR:-$srcdir/build}
ovs=${OVERLAY_OVS:-$(cat "$builddir/ovs-source.path")}
PYTHON3=${PYTHON3:-/usr/bin/python3}
export PYTHON3

# Other users, too, may look into it: some tests run as one.
tmp=$(mktemp -d "${TMPDIR:-/tmp}/overlay-test.XXXXXX") || exit 1
chmod 755 "$tmp"
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

n_tests=0

# ok DESCRIPTION COMMAND...: the test passes if COMMAND succeeds.
ok() {
    local description=$1
    shift
    n_tests=$((n_tests + 1))
    if "$@"; then
        echo "ok $n_tests - $description"
    else
        echo "not ok $n_tests - $description"
    fi
}

skip() {
    n_tests=$((n_tests + 1))
    echo "ok $n_tests - $1 # SKIP $2"
}

# fails_with TEXT COMMAND...: succeeds if COMMAND exits with status 1 and
# prints one line, which contains TEXT, and nothing else, as its error.
fails_with() {
    local text=$1 status
    shift
    "$@" > "$tmp/out" 2> "$tmp/err"
    status=$?
    sed 's/^/# /' "$tmp/out" "$tmp/err"
    [ $status = 1 ] && [ "$(wc -l < "$tmp/err")" = 1 ] &&
        grep -q -F -e "$text" "$tmp/err"
}

# Runs the overlay's graft.
graft() {
    "$PYTHON3" "$srcdir/build-aux/graft" "$@"
}

# Prints a line for each file below folder $1: its name, time and content.
listing() {
    (cd "$1" && find . -name .git -prune -o -type f -printf '%P %T@ %m\n' |
         sort; find . -name .git -prune -o -type f -print0 | sort -z |
         xargs -0 sha256sum)
}

done_testing() {
    echo "1..$n_tests"
}
