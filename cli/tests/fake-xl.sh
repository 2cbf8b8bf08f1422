#!/bin/sh
# An xl for error paths: domains are files in $FAKE_XEN/domains, a save is $FAKE_XEN/stream.
# What goes wrong is said by files in $FAKE_XEN:
#   fail-ACTION    that action fails (for save: half of the stream, and then it lets the guest run)
#   deaf           a save fails as it does when the guest ignores the request to suspend
#   unwatched      who shuts down stays, shut down: no xl waits for it
#   half-made      a restore that fails leaves its domain, paused
#   stop-at        "N before", "N middle" or "N after": call number N waits there until `go` is there;
#                  with ACTION for N, the first of these calls to come there does
set -u
# Whoever reads may have been killed: that is an error here, not the end.
trap "" PIPE
fake=$FAKE_XEN
action=$1

until mkdir "$fake/lock" 2>/dev/null; do sleep 0.01; done
number=$(($(cat "$fake/calls" 2>/dev/null || echo 0) + 1))
echo $number >"$fake/calls"
echo "$number $*" >>"$fake/log"
rmdir "$fake/lock"
: >"$fake/working-$number"
trap 'rm -f "$fake/working-$number"' EXIT

point() {
    case $(cat "$fake/stop-at" 2>/dev/null) in
    "$number $1") ;;
    "$action $1") mkdir "$fake/came" 2>/dev/null || return 0 ;;
    *) return 0 ;;
    esac
    : >"$fake/stopped"
    until [ -e "$fake/go" ]; do sleep 0.02; done
}

# change ID FIELD VALUE, where the fields are name, memory, state, seconds and uuid
change() {
    awk -F'\t' -v OFS='\t' -v n="$2" -v v="$3" '{ $n = v; print }' "$fake/domains/$1" >"$fake/new-$1"
    mv "$fake/new-$1" "$fake/domains/$1"
}

refuse() {
    echo "libxl: error: fake: $1" >&2
    exit 1
}

known() {
    [ -e "$fake/domains/$1" ] || refuse "invalid domain identifier ($1)"
}

list() {
    printf 'Name ID Mem VCPUs\tState\tTime(s) UUID Reason-Code\tSecurity Label\n'
    for file in "$fake"/domains/*; do
        [ -e "$file" ] || continue
        awk -F'\t' -v id="${file##*/}" \
            '{ printf "%-40s %5d %5d %5d     %s  %8.1f %s - -\n", $1, id, $2, 1, $3, $4, $5 }' "$file"
    done
}

save() {
    known "$1"
    if [ -e "$fake/deaf" ]; then
        refuse "guest didn't acknowledge suspend, cancelling request"
    fi
    change "$1" 3 ---ss-
    size=$(wc -c <"$fake/stream")
    ok=yes
    {
        head -c $((size / 2)) "$fake/stream" || ok=
        point middle
        if [ -e "$fake/fail-save" ]; then
            ok=
        else
            tail -c +$((size / 2 + 1)) "$fake/stream" 2>/dev/null || ok=
        fi
    } >"$2"
    if [ -z "$ok" ]; then
        change "$1" 3 -b----
        refuse "Failed to save domain, resuming domain"
    fi
    change "$1" 3 --p---
}

# restore CONFIG FILE, where an empty CONFIG is the one in FILE
restore() {
    cat "$2" >"$fake/restored"
    point middle
    id=$(cat "$fake/next-id")
    echo $((id + 1)) >"$fake/next-id"
    config=$1
    if [ -n "$config" ]; then
        field() { sed -n "s/^$1 *= *\"\(.*\)\".*/\1/p" "$config"; }
    else
        field() { grep -ao "\"$1\": *\"[^\"]*\"" "$fake/restored" | head -1 | cut -d'"' -f4; }
    fi
    name=$(field name) uuid=$(field uuid)
    # Who has no uuid gets a new one.
    printf '%s\t128\t--p---\t0.0\t%s\n' "$name" "${uuid:-$(cat /proc/sys/kernel/random/uuid)}" >"$fake/made"
    tail -c 64 "$fake/stream" >"$fake/end"
    if [ -e "$fake/fail-restore" ] || ! tail -c 64 "$fake/restored" | cmp -s - "$fake/end"; then
        [ -e "$fake/half-made" ] && mv "$fake/made" "$fake/domains/$id"
        refuse "restoring domain: savefile truncated"
    fi
    mv "$fake/made" "$fake/domains/$id"
}

point before
[ "$action" != save ] && [ "$action" != restore ] && [ -e "$fake/fail-$action" ] && refuse "$action failed"
case "$*" in
"list -v") list ;;
"save -p "*) save "$3" "$4" ;;
"restore -p /dev/stdin") restore "" "$3" ;;
"restore -p /"*" /dev/stdin") restore "$3" "$4" ;;
resume\ *) known "$2" && change "$2" 3 -b---- ;;
unpause\ *) known "$2" && change "$2" 3 -b---- ;;
destroy\ *) known "$2" && rm "$fake/domains/$2" ;;
shutdown\ *)
    known "$2"
    if [ -e "$fake/unwatched" ]; then change "$2" 3 ---s--; else rm "$fake/domains/$2"; fi
    ;;
*) refuse "no such call: $*" ;;
esac
point after
