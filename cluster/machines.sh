#!/usr/bin/env bash
# A Ray cluster on machines of your own: no containers, no launcher, no systemd.
#   cluster/machines.sh head [OPTIONS]            on the first one
#   cluster/machines.sh worker HEAD [OPTIONS]     on each other one; HEAD: its address
#   cluster/machines.sh status | stop             on any
# OPTIONS go to `ray start`, such as --num-cpus=4. Settings are in cluster/machines.env, the token in
# cluster/secrets/ray_token, the same on all machines. README.md says how to begin.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${LAKEHOUSE_NODE_FOLDER:=$HOME/.lakehouse-node}"
pid_file=$LAKEHOUSE_NODE_FOLDER/pid
log=$LAKEHOUSE_NODE_FOLDER/ray.log
patience_s=120
# Ray drains for up to 30 s.
stop_s=60

fail() { echo "error: $1" >&2; exit "${2:-1}"; }

# After a restart of the machine the id may be of another process, which is neither a node nor to be ended.
running() {
  [ -s "$pid_file" ] && tr '\0' ' ' 2>/dev/null < "/proc/$(cat "$pid_file")/cmdline" | grep -q "ray start --block"
}

prepare() {
  set -a
  # shellcheck source=/dev/null
  . "${LAKEHOUSE_NODE_SETTINGS:-$here/machines.env}"
  set +a
  : "${RAY_AUTH_TOKEN_PATH:=$here/secrets/ray_token}"
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH RAY_USAGE_STATS_ENABLED=0
  command -v ray >/dev/null || fail "there is no ray in PATH: activate the environment of this package" 4
  [ -s "$RAY_AUTH_TOKEN_PATH" ] || fail "there is no token at $RAY_AUTH_TOKEN_PATH: openssl rand -hex 32 makes one" 4
  [ -z "$(find -L "$RAY_AUTH_TOKEN_PATH" -perm /077)" ] ||
    fail "others may read $RAY_AUTH_TOKEN_PATH: chmod 600 it" 6
  running && fail "a node runs here already, process $(cat "$pid_file")" 8
  mkdir -p "$LAKEHOUSE_NODE_FOLDER"
  chmod 700 "$LAKEHOUSE_NODE_FOLDER"
}

# Starts it apart from this shell, and waits until it is up or has ended.
start() {
  : > "$log"
  ulimit -n "$(ulimit -Hn)"
  setsid nohup ray start --block --object-store-memory=268435456 "$@" >> "$log" 2>&1 < /dev/null &
  echo $! > "$pid_file"
  for _ in $(seq $((patience_s * 2))); do
    if grep -q "Ray runtime started" "$log"; then
      echo "up, process $(cat "$pid_file"), log $log"
      return
    fi
    running || { tail -n 20 "$log" >&2; fail "the node did not start" 7; }
    sleep 0.5
  done
  stop
  fail "the node is not up after $patience_s s: see $log" 7
}

stop() {
  running || { echo "nothing runs here"; return; }
  local pid
  pid=$(cat "$pid_file")
  kill -TERM "$pid"
  for _ in $(seq $((stop_s * 2))); do
    running || break
    sleep 0.5
  done
  # Its own group, and nobody else's.
  if running; then kill -KILL -- "-$pid"; fi
  rm -f "$pid_file"
  echo "stopped"
}

role=${1:-}
[ $# -gt 0 ] && shift
case $role in
  head)
    prepare
    # The dashboard stays this machine's: `ssh -L 8265:127.0.0.1:8265 HEAD` reaches it.
    start --head --port=6379 --dashboard-host=127.0.0.1 --dashboard-port=8265 \
      --metrics-export-port=9091 "$@"
    ;;
  worker)
    [ $# -gt 0 ] || fail "name the head: cluster/machines.sh worker 10.0.0.5" 2
    head=$1
    shift
    prepare
    case $head in *:*) ;; *) head=$head:6379 ;; esac
    # Ray itself would try for minutes.
    timeout 5 bash -c "exec 3<>/dev/tcp/${head%:*}/${head##*:}" 2>/dev/null ||
      fail "no head answers at $head: is it up, and does a firewall let this machine through?" 7
    start --address="$head" --metrics-export-port=9091 "$@"
    ;;
  status)
    running || { echo "down"; exit 7; }
    echo "up, process $(cat "$pid_file"), log $log"
    ;;
  stop) stop ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
