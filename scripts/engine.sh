#!/usr/bin/env bash
# A Docker engine that answers. One that does already is used as it is; else Debian's is installed and started.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

fail() { echo "error: $*" >&2; exit 1; }
answers() { docker info >/dev/null 2>&1; }

answers && exit 0
if [[ -n ${DOCKER_HOST:-} ]]; then
    fail "No Docker engine answers at DOCKER_HOST=$DOCKER_HOST: start it there, or unset DOCKER_HOST, and try again."
fi
context=$(docker context show 2>/dev/null || echo default)
[[ $context == default ]] ||
    fail "No Docker engine answers in the context '$context': start it, or run 'docker context use default', and try again."
if [[ -S /run/docker.sock && ! -w /run/docker.sock ]]; then
    fail "You may not use the Docker engine: run 'sudo usermod -aG docker $(id -un)', log in again, and try again."
fi
sudo=""
if [[ $(id -u) != 0 ]]; then
    sudo=sudo
    command -v sudo >/dev/null || fail "No Docker engine answers: start one, or run this as root to have one installed."
fi

systemd() { [[ -d /run/systemd/system ]]; }

if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
    grep -qi debian /etc/os-release 2>/dev/null ||
        fail "No Docker engine answers, and only on Debian can one be installed here: install Docker, start it, and try again."
    packages=(docker.io iptables)
    mountpoint -q /sys/fs/cgroup || packages+=(cgroupfs-mount)
    [[ $(cat /sys/module/apparmor/parameters/enabled 2>/dev/null) != Y ]] || packages+=(apparmor)
    $sudo apt-get update -q >/dev/null || fail "apt-get could not read the package lists."
    [[ -z $(apt-cache search --names-only '^runsc$') ]] || packages+=(runsc)  # gVisor, for who asks for it
    command -v docker >/dev/null || [[ -z $(apt-cache search --names-only '^docker-cli$') ]] || packages+=(docker-cli)
    echo "No Docker engine answers. Installing ${packages[*]} with apt-get, then starting the engine ..."
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}" >/dev/null ||
        fail "apt-get could not install Docker: install and start it yourself, and try again."
fi

wait_for_engine() {  # wait_for_engine SECONDS [PID]: until it answers; not longer than that process lives
    for _ in $(seq $(($1 * 5))); do
        $sudo docker info >/dev/null 2>&1 && return 0
        [[ -z ${2:-} ]] || $sudo kill -0 "$2" 2>/dev/null || return 1
        sleep 0.2
    done
    return 1
}

engine_config() {  # the machine's own, or one that offers gVisor where it is installed
    if [[ -e /etc/docker/daemon.json ]]; then
        cat /etc/docker/daemon.json
    elif command -v runsc >/dev/null; then
        local arguments='"--platform=ptrace", "--network=none", "--host-uds=open", "--oci-seccomp"'  # docs/engines.md
        printf '{"runtimes": {"runsc": {"path": "%s", "runtimeArgs": [%s]}}}\n' "$(command -v runsc)" "$arguments"
    else
        echo '{}'
    fi
}

start_in_background() {  # start_in_background OPTION...: dockerd detached from this shell, with a log and a pid file
    $sudo setsid dockerd --config-file "$PWD/.cache/daemon.json" --group "$(id -gn)" "$@" </dev/null >>.cache/dockerd.log 2>&1 &
    wait_for_engine 60 $! || return 1
    cat /run/docker.pid >.cache/dockerd.pid
}

if systemd; then
    echo "Starting the Docker engine with systemd ..."
    $sudo systemctl enable --now docker >/dev/null 2>&1 || true
    wait_for_engine 60 || fail "The Docker engine does not start: 'journalctl -u docker' says why."
elif pgrep -x dockerd >/dev/null; then
    wait_for_engine 60 || fail "A Docker engine runs but does not answer: stop it or mend it, and try again."
else
    mkdir -p .cache
    engine_config >.cache/daemon.json
    echo "Starting the Docker engine (log: .cache/dockerd.log) ..."
    start_in_background || {
        echo "It did not start. Trying without networks, which no sandbox needs ..."
        start_in_background --bridge=none --iptables=false
    } || fail "The Docker engine does not start: .cache/dockerd.log says why."
fi

if ! answers; then  # installed just now, so this login is not in its group yet
    $sudo usermod -aG docker "$(id -un)"
    $sudo chgrp "$(id -gn)" /run/docker.sock
    echo "Your user was added to the group docker; until you log in again, the engine's socket is yours."
    answers || fail "The Docker engine runs, but you may not use it: log in again and try again."
fi
