"""The part of every script that is the same: its functions.

Owns: shell text.  Must not: know a lab.

It is POSIX sh, and what Debian installs with util-linux, iproute2 and procps.
"""

from __future__ import annotations

HEAD = r"""#!/bin/sh
# {title}
#
# The same lab as `netorch up` makes, by hand.  Written by `netorch plan --format shell`.
#
#   sh lab.sh          builds it (as root)
#   sh lab.sh down     removes it
#   sh lab.sh enter red ip address      runs a command in a container
#
# Read it from `up` on.  Each container is a process in namespaces of its own: what it sees of the network,
# of processes, mounts and host names is its own, and ends with it.  What netorch does beyond this script: a
# seccomp filter, a filter of devices, user namespaces, restarts and readiness of commands; it rolls back
# when a step fails, and finds its own objects again by marks on them.
set -eu

LAB={lab}
DIR=/run/lab-$LAB
"""

FUNCTIONS = r"""
say() { printf '%s\n' "-- $*" >&2; }

# The process that is number 1 of a container, as the host numbers it.
pid() { cat "$DIR/$1/pid"; }

# in_net CONTAINER COMMAND...: the host's programs, in the network namespace of a container.
in_net() {
    of=$1
    shift
    nsenter --net="/proc/$(pid "$of")/ns/net" -- "$@"
}

# enter CONTAINER COMMAND...: in all namespaces of a container, in its cgroup, with its capabilities only.
enter() {
    of=$1
    shift
    (
        join_cgroup "$of"
        # shellcheck disable=SC2046
        exec nsenter --target "$(pid "$of")" --mount --uts --ipc --net --pid --cgroup \
            $(more_namespaces "$of") -- \
            setpriv --no-new-privs --inh-caps=-all --bounding-set="$(capabilities "$of")" -- "$@"
    )
}

# start CONTAINER COMMAND...: COMMAND makes the namespaces; in them this script goes on with `inside`.
start() {
    of=$1
    shift
    mkdir -p "$DIR/$of/root"
    (
        join_cgroup "$of"
        exec setsid "$@" sh "$0" inside "$of"
    ) </dev/null >"$DIR/$of/log" 2>&1 &
    tries=0
    until [ -s "$DIR/$of/ready" ]; do
        tries=$((tries + 1))
        if [ $tries -gt 200 ]; then
            say "$of does not start:"
            cat "$DIR/$of/log" >&2
            exit 1
        fi
        sleep 0.05
    done
}

# -- cgroups: limits for all processes of a container together ----------------------------------------

# Version 1 has a tree for each controller, version 2 one for all of them; many hosts have both.  Prints for
# each: version, controllers, and the directory that this process is in.
hierarchies() {
    while IFS=: read -r _ names path; do
        if [ -z "$names" ]; then
            at=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
            [ -z "$at" ] || echo "2 ,$(tr ' ' , <"$at$path/cgroup.controllers"), $at$path"
        else
            at=$(awk -v n=",$names," '$3 == "cgroup" && index("," $4 ",", n) { print $2; exit }' \
                /proc/self/mounts)
            [ -z "$at" ] || echo "1 ,$names, $at$path"
        fi
    done </proc/self/cgroup
}

# make_cgroup CONTAINER CONTROLLER...: a directory in the version 2 tree, and in that of each controller.
make_cgroup() {
    of=$1
    shift
    mkdir -p "$DIR/$of"
    hierarchies | while read -r version names dir; do
        wanted=$version
        for controller in "$@"; do
            case $names in *",$controller,"*) wanted=2 ;; esac
        done
        [ "$wanted" = 2 ] && [ -d "$dir" ] || continue
        mkdir -p "${dir%/}/lab-$LAB/$of"
        echo "$version $names ${dir%/}/lab-$LAB/$of" >>"$DIR/$of/cgroups"
        case $names in *,cpuset,*) inherit_cpuset "${dir%/}/lab-$LAB" "$of" ;; esac
    done
}

# A cpuset of version 1 begins empty, and takes no process before it has CPUs and memory nodes.
inherit_cpuset() {
    [ -e "$1/cpuset.mems" ] || return 0
    for level in "$1" "$1/$2"; do
        for file in cpuset.cpus cpuset.mems; do
            [ -n "$(cat "$level/$file")" ] || cat "$level/../$file" >"$level/$file"
        done
    done
}

# limit CONTAINER CONTROLLER FILE1 VALUE1 FILE2 VALUE2: write by the version that has the controller.  One of
# version 2 has to be handed down from level to level first.
limit() {
    while read -r version names dir; do
        case $names in *",$2,"*) ;; *) continue ;; esac
        if [ "$version" = 1 ]; then
            [ -z "$3" ] || echo "$4" >"$dir/$3"
        else
            echo "+$2" >"${dir%/*/*}/cgroup.subtree_control"
            echo "+$2" >"${dir%/*}/cgroup.subtree_control"
            echo "$6" >"$dir/$5"
        fi
    done <"$DIR/$1/cgroups"
}

# 0 means: the process that writes.
join_cgroup() {
    while read -r _ _ dir; do
        echo 0 >"$dir/cgroup.procs"
    done <"$DIR/$1/cgroups"
}

# -- sysctls of the host, noted to be given back -------------------------------------------------------

# set_sysctl NAME VALUE.  Forwarding changes other sysctls when it is switched, so these are noted, too.
set_sysctl() {
    case $1 in
        net.ipv4.ip_forward)
            note_sysctls /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/accept_redirects \
                /proc/sys/net/ipv4/conf/*/forwarding
            ;;
        net.ipv6.conf.all.forwarding)
            note_sysctls /proc/sys/net/ipv6/conf/*/forwarding /proc/sys/net/ipv6/conf/*/force_forwarding \
                /proc/sys/net/ipv6/conf/*/accept_ra
            # A router listens to no other router, unless accept_ra is 2: so the host keeps its default route.
            for file in /proc/sys/net/ipv6/conf/*/accept_ra; do
                case $file in */all/* | */default/*) continue ;; esac
                [ "$(cat "$file")" != 1 ] || echo 2 >"$file"
            done
            ;;
        *) note_sysctls "/proc/sys/$(printf %s "$1" | tr ./ /.)" ;;
    esac
    [ "$(sysctl -n "$1")" = "$2" ] || sysctl -qw "$1=$2"
}

note_sysctls() {
    for file in "$@"; do
        [ ! -r "$file" ] || printf '%s %s\n' "$file" "$(cat "$file")" >>"$DIR/sysctls"
    done
}

restore_sysctls() {
    [ -e "$DIR/sysctls" ] || return 0
    while read -r file value; do
        if [ -w "$file" ] && [ "$(cat "$file")" != "$value" ]; then
            printf '%s\n' "$value" >"$file"
        fi
    done <"$DIR/sysctls"
}

# -- the root of a container -------------------------------------------------------------------------

# layer NAME SOURCE: a directory or an archive, with overlay's marks for what it hides of lower ones.
layer() {
    mkdir -p "$DIR/layers/$1"
    if [ -d "$2" ]; then
        cp -a "$2/." "$DIR/layers/$1"
    else
        tar -C "$DIR/layers/$1" -xf "$2"
    fi
    find "$DIR/layers/$1" -name '.wh.*' | while read -r mark; do
        rm "$mark"
        if [ "${mark##*/}" = .wh..wh..opq ]; then
            setfattr -n trusted.overlay.opaque -v y "${mark%/*}"
        else
            mknod "${mark%/*}/${mark##*/.wh.}" c 0 0
        fi
    done
}

# Other file systems of the host, read-only but for /etc: an overlay shows only the one that it lies on.
show_other_mounts() {
    while read -r _ at kind _; do
        case $at in
            / | /proc* | /sys* | /dev* | /run* | /tmp* | "$DIR"*) continue ;;
            /etc/hosts | /etc/hostname | /etc/resolv.conf) continue ;; # it gets its own
        esac
        case $kind in
            ext* | xfs | btrfs | f2fs | zfs | overlay | squashfs | erofs | tmpfs | 9p | virtiofs | nfs*) ;;
            *) continue ;;
        esac
        if [ "$at" = /etc ]; then
            overlay /etc "${root%/*}/etc"
        else
            bind "$at" "$root$at" ro
        fi
    done </proc/self/mounts
}

# overlay SOURCE ABOVE: the same path below the root, copy-on-write
overlay() {
    mkdir "$2" "$2/upper" "$2/work"
    mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$root$1"
}

# bind SOURCE TARGET [ro]
bind() {
    if [ -d "$1" ]; then
        mkdir -p "$2"
    else
        mkdir -p "${2%/*}"
        [ -e "$2" ] || : >"$2"
    fi
    mount --bind "$1" "$2"
    [ "${3:-}" != ro ] || mount -o remount,bind,ro "$2"
}

# What a container finds below /proc, /sys, /dev, /run and /tmp: nothing of the host's.
mount_system() {
    mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/etc"
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
    mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/dev"
    mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$root/run"
    mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/tmp"
    mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
    mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/dev/shm"
    while read -r name major minor; do
        mknod -m 666 "$root/dev/$name" c "$major" "$minor"
    done <<'END'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
net/tun 10 200
END
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s /proc/self/fd/0 "$root/dev/stdin"
    ln -s /proc/self/fd/1 "$root/dev/stdout"
    ln -s /proc/self/fd/2 "$root/dev/stderr"
    ln -s pts/ptmx "$root/dev/ptmx"
}

# Parts of /proc that speak of the whole machine: hidden, or read-only.
mask_system() {
    for name in acpi interrupts kcore keys latency_stats sched_debug scsi timer_list; do
        if [ -d "$root/proc/$name" ]; then
            mount -t tmpfs -o ro tmpfs "$root/proc/$name"
        elif [ -e "$root/proc/$name" ]; then
            mount --bind "$root/dev/null" "$root/proc/$name"
        fi
    done
    for name in bus fs irq sysrq-trigger $(cd "$root/proc" && echo sys/*); do
        file=$root/proc/$name
        [ "$name" = sys/net ] || [ ! -e "$file" ] || bind "$file" "$file" ro
    done
}

# The kernel's own defaults, whatever the host's are: so the lab is the same everywhere.
base_line() {
    in_net "$1" sysctl -qew net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 \
        net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
        net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 \
        net.ipv6.conf.default.router_solicitations=-1 net.ipv6.conf.default.addr_gen_mode=1
}

# -- down --------------------------------------------------------------------------------------------

# With number 1 all processes of its PID namespace end, and with the last of them its network.
stop() {
    [ -s "$DIR/$1/pid" ] || return 0
    number=$(cat "$DIR/$1/pid")
    [ "$(readlink "/proc/$number/ns/pid")" = "$(cat "$DIR/$1/namespace")" ] || return 0
    kill -KILL "$number"
    while [ -d "/proc/$number/ns" ] && readlink "/proc/$number/ns/pid" >/dev/null 2>&1; do sleep 0.05; done
}

remove_cgroups() {
    [ -e "$DIR/$1/cgroups" ] || return 0
    while read -r _ _ dir; do
        tries=0
        until rmdir "$dir" 2>/dev/null || [ $tries -gt 100 ]; do
            tries=$((tries + 1))
            sleep 0.05
        done
        rmdir "${dir%/*}" 2>/dev/null || :
    done <"$DIR/$1/cgroups"
}
"""

TAIL = r"""
case ${1:-up} in
    up) up ;;
    down) down ;;
    inside) inside "$2" ;;
    enter)
        shift
        enter "$@"
        ;;
    *)
        echo "usage: sh $0 [up | down | enter CONTAINER COMMAND...]" >&2
        exit 2
        ;;
esac
"""
