#!/bin/bash
# Servers are created while one nova-scheduler worker is stopped and another
# one ends: each becomes ACTIVE, the stopped worker is seen as down or replaced,
# and both are up again under their names. Needs a cloud for "openstack" with at least
# two workers on one node that is this machine, and [DEFAULT] report_interval
# and service_down_time as nova has them, or smaller ones.
#
# usage: workers.sh IMAGE FLAVOR
set -euo pipefail
image=$1
flavor=$2
servers=()

log() { echo "$(date +%T) $*"; }

pid_of() {
    pgrep --full --newest "^nova-scheduler: .*-worker-$1( |\$)"
}

is() {  # is WORKER up|down
    openstack compute service list --service nova-scheduler \
        --format value --column Host --column State |
        grep --quiet --extended-regexp -- "-worker-$1 $2\$"
}

active() {
    [ "$(openstack server list --name '^workers-' --status ACTIVE \
        --format value --column ID | wc -l)" -eq ${#servers[@]} ]
}

wait_for() {  # wait_for WHAT COMMAND...
    local what=$1 end=$((SECONDS + 180))
    shift
    until "$@"; do
        if [ $SECONDS -gt $end ]; then
            log "FAILED: no $what in 180 seconds"
            openstack compute service list --service nova-scheduler
            openstack server list --name '^workers-'
            exit 1
        fi
        sleep 1
    done
    log "$what"
}

create() {
    local name
    for name in "$@"; do
        openstack server create --image "$image" --flavor "$flavor" \
            --nic none --format value --column id "workers-$name"
        servers+=("$name")
    done
}

stopped=
finish() {
    [ -z "$stopped" ] || kill -CONT "$stopped" 2>/dev/null || true
    openstack server list --name '^workers-' --format value --column ID |
        xargs --no-run-if-empty openstack server delete
}
trap finish EXIT

wait_for 'worker 1 up' is 1 up
wait_for 'worker 2 up' is 2 up

stopped=$(pid_of 2)
kill -STOP "$stopped"
log "stopped worker 2 (pid $stopped)"
create a b c d
wait_for 'servers ACTIVE beside a stopped worker' active
# With [scheduler] worker_timeout it may be replaced before anybody looks.
seen() {
    is 2 down || [ "$(pid_of 2)" != "$stopped" ]
}
wait_for 'worker 2 down, or replaced' seen
kill -CONT "$stopped" 2>/dev/null || true
stopped=
wait_for 'worker 2 up again' is 2 up

old=$(pid_of 1)
kill -TERM "$old"
log "told worker 1 to end (pid $old)"
create e f g h
wait_for 'servers ACTIVE while a worker ends' active
new_process() {
    local now
    now=$(pid_of 1) && [ "$now" != "$old" ]
}
wait_for 'another process for worker 1' new_process
wait_for 'worker 1 up again' is 1 up
log passed
