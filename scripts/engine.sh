#!/usr/bin/env bash
# Make sure that a Docker engine answers: keep a running one, otherwise install and start Debian's.
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
    fail "Permission denied on the Docker engine: run 'sudo usermod -aG docker $(id -un)', log in again, and retry."
fi
sudo=""
if [[ $(id -u) != 0 ]]; then
    sudo=sudo
    command -v sudo >/dev/null || fail "No Docker engine answers: start one, or run this as root to install one."
fi

systemd() { [[ -d /run/systemd/system ]]; }

if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
    grep -qi debian /etc/os-release 2>/dev/null ||
        fail "No Docker engine answers, and this script installs one on Debian only: install and start Docker, then retry."
    packages=(docker.io iptables)
    mountpoint -q /sys/fs/cgroup || packages+=(cgroupfs-mount)
    [[ $(cat /sys/module/apparmor/parameters/enabled 2>/dev/null) != Y ]] || packages+=(apparmor)
    $sudo apt-get update -q >/dev/null || fail "apt-get update failed: check the network and the package sources."
    [[ -z $(apt-cache search --names-only '^runsc$') ]] || packages+=(runsc)  # gVisor, for those who choose it
    command -v docker >/dev/null || [[ -z $(apt-cache search --names-only '^docker-cli$') ]] || packages+=(docker-cli)
    echo "No Docker engine answers. Installing ${packages[*]} with apt-get, then starting the engine ..."
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}" >/dev/null ||
        fail "apt-get failed to install Docker: install and start it yourself, then retry."
fi

wait_for_engine() {  # wait_for_engine SECONDS [PID]: until it answers, at most as long as the process lives
    for _ in $(seq $(($1 * 5))); do
        $sudo docker info >/dev/null 2>&1 && return 0
        [[ -z ${2:-} ]] || $sudo kill -0 "$2" 2>/dev/null || return 1
        sleep 0.2
    done
    return 1
}

engine_config() {  # the machine's own, or one that registers gVisor if installed
    if [[ -e /etc/docker/daemon.json ]]; then
        cat /etc/docker/daemon.json
    elif command -v runsc >/dev/null; then
        local arguments='"--platform=ptrace", "--network=none", "--host-uds=open", "--oci-seccomp"'  # docs/engines.md
        printf '{"runtimes": {"runsc": {"path": "%s", "runtimeArgs": [%s]}}}\n' "$(command -v runsc)" "$arguments"
    else
        echo '{}'
    fi
}

start_in_background() {  # start_in_background OPTION...: detach dockerd from this shell, with a log and a pid file
    $sudo setsid dockerd --config-file "$PWD/.cache/daemon.json" --group "$(id -gn)" "$@" </dev/null >>.cache/dockerd.log 2>&1 &
    wait_for_engine 60 $! || return 1
    cat /run/docker.pid >.cache/dockerd.pid
}

if systemd; then
    echo "Starting the Docker engine with systemd ..."
    $sudo systemctl enable --now docker >/dev/null 2>&1 || true
    wait_for_engine 60 || fail "The Docker engine failed to start: see 'journalctl -u docker'."
elif pgrep -x dockerd >/dev/null; then
    wait_for_engine 60 || fail "A Docker engine runs but does not answer: stop or fix it, then retry."
else
    mkdir -p .cache
    engine_config >.cache/daemon.json
    echo "Starting the Docker engine (log: .cache/dockerd.log) ..."
    start_in_background || {
        echo "It failed to start. Retrying without networks, which sandboxes do not need ..."
        start_in_background --bridge=none --iptables=false
    } || fail "The Docker engine failed to start: see .cache/dockerd.log."
fi

if ! answers; then  # freshly installed: this login is not in its group yet
    $sudo usermod -aG docker "$(id -un)"
    $sudo chgrp "$(id -gn)" /run/docker.sock
    echo "Added your user to the group docker. Until you log in again, you own the engine's socket."
    answers || fail "The Docker engine runs, but denies access: log in again and retry."
fi
