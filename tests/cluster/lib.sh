# Starting and stopping the test cluster's parts; sourced after env.sh.
#
# A part is one process. $CLUSTER_RUN/NAME.pid holds its pid and start time, so that nothing but what was started here is
# ever signalled, and $CLUSTER_RUN/NAME.cmd how it was started, so that ./part can start it again.

start() { # start NAME COMMAND...: in the background; the log is kept
  local name=$1; shift
  printf '%q ' "$@" >"$CLUSTER_RUN/$name.cmd"
  (cd "$CLUSTER_STATE/pki" && exec setsid "$@" >>"$CLUSTER_LOGS/$name.log" 2>&1 </dev/null 9>&-) &
  echo "$! $(start_time $!)" >"$CLUSTER_RUN/$name.pid"
}

start_time() { # start_time PID: in ticks since boot; a pid is used again, a pid with its start time is not
  local stat; read -r stat 2>/dev/null <"/proc/$1/stat" || return 0
  # shellcheck disable=SC2086
  set -- ${stat##*) }; echo "${20}"
}

pid_of() { # pid_of NAME: the pid, if that process still runs
  local pid since
  read -r pid since 2>/dev/null <"$CLUSTER_RUN/$1.pid" || return 1
  [ -n "$since" ] && [ "$(start_time "$pid")" = "$since" ] && echo "$pid"
}

stop() { # stop [-SIGNAL] NAME...: TERM or the signal; KILL for what is still there after 3 s
  local signal=-TERM name pid pids=()
  case ${1:-} in -*) signal=$1; shift ;; esac
  for name in "$@"; do
    if pid=$(pid_of "$name"); then pids+=("$pid"); fi
    rm -f "$CLUSTER_RUN/$name.pid"
  done
  [ ${#pids[@]} -gt 0 ] || return 0
  kill "$signal" "${pids[@]}" 2>/dev/null
  for _ in $(seq 60); do running "${pids[@]}" || return 0; sleep 0.05; done
  kill -KILL "${pids[@]}" 2>/dev/null || true
  for _ in $(seq 60); do running "${pids[@]}" || return 0; sleep 0.05; done
}

running() { # running PID...: whether one of them is there and no zombie
  local pid stat
  for pid in "$@"; do
    read -r stat 2>/dev/null <"/proc/$pid/stat" || continue
    case ${stat##*) } in Z*|X*) ;; *) return 0 ;; esac
  done
  return 1
}

wait_for() { # wait_for WHAT SECONDS COMMAND...
  local what=$1 left=$(( $2 * 10 )); shift 2
  until "$@" >/dev/null 2>&1; do
    if (( left-- <= 0 )); then
      tail -n 20 "$CLUSTER_LOGS/$what.log" >&2 2>/dev/null || true
      echo "cluster: $what did not come up in time; logs in $CLUSTER_LOGS" >&2
      exit 1
    fi
    sleep 0.1
  done
}

# --- what a node is made of

cgroups_of() { # cgroups_of N: its topmost cgroup in every hierarchy
  local top
  for top in /sys/fs/cgroup/klab-node"$1" /sys/fs/cgroup/*/klab-node"$1"; do
    if [ -d "$top" ]; then echo "$top"; fi
  done
}

kill_pods() { # kill_pods N: every process in the node's cgroups, frozen ones too, and the cgroups
  local top pids
  for top in $(cgroups_of "$1"); do
    find "$top" -name freezer.state -exec sh -c 'for f; do echo THAWED >"$f"; done' sh {} + 2>/dev/null
    find "$top" -name cgroup.kill -exec sh -c 'for f; do echo 1 >"$f"; done' sh {} + 2>/dev/null
  done
  for _ in $(seq 100); do
    pids=$(for top in $(cgroups_of "$1"); do find "$top" -name cgroup.procs -exec cat {} + 2>/dev/null; done | sort -un)
    [ -n "$pids" ] || break
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null
    sleep 0.05
  done
  for top in $(cgroups_of "$1"); do find "$top" -depth -type d -exec rmdir {} + 2>/dev/null; done
  return 0
}

unmount_below() { # unmount_below FOLDER...
  local folder
  for folder in "$@"; do
    awk -v f="$folder/" 'index($2 "/", f) == 1 {print $2}' /proc/mounts | sort -r | while read -r m; do umount -l "$m" 2>/dev/null; done
  done
  return 0
}

remove() { # remove FOLDER...: many at a time, for some disks take milliseconds to free a file
  find "$@" -xdev ! -type d -print0 2>/dev/null | xargs -0 -r -P 16 -n 100 rm -f
  rm -rf --one-file-system "$@"
}

kill_node() { # kill_node N: as if its power had gone; its data and its cable stay
  local n=$1 p
  stop -KILL "kubelet$n" "containerd$n" "kube-proxy$n"
  for p in $(shims "$n"); do kill -KILL "$p" 2>/dev/null; done
  kill_pods "$n"
  if [ -e "/run/netns/klab-node$n" ]; then
    for p in $(ip netns pids "klab-node$n" 2>/dev/null); do kill -KILL "$p" 2>/dev/null; done
  fi
  return 0
}

shims() { # shims N: containerd's shims outlive it; those of this node name its socket
  pgrep -f "^[^ ]*containerd-shim[^ ]* .*-address $CLUSTER_RUN/node$1/containerd.sock" 2>/dev/null
}

clear_node() { # clear_node N: all of it goes
  local n=$1 id
  kill_node "$n"
  unmount_below "$CLUSTER_RUN/node$n" "$CLUSTER_STATE/node$n"
  ip netns del "klab-node$n" 2>/dev/null
  ip link del "klab$n" 2>/dev/null
  ip route del "$POD_NET.$n.0/24" 2>/dev/null
  # What kubelet, CNI and containerd keep in places that cannot be chosen.
  find /var/log/containers -maxdepth 1 -lname "$CLUSTER_STATE/node$n/*" -delete 2>/dev/null
  grep -rlF "$CLUSTER_RUN/node$n/" /var/lib/cni 2>/dev/null | xargs -r rm -f
  sed -n 's|^unix://\(/run/containerd/s/[0-9a-f]*\)$|\1|p' "$CLUSTER_RUN/node$n"/containerd/*/k8s.io/*/address 2>/dev/null | xargs -r rm -f
  remove "${CLUSTER_RUN:?}/node$n" "${CLUSTER_STATE:?}/node$n"
  rm -f "$CLUSTER_RUN"/{kubelet,containerd,kube-proxy}"$n".{cmd,pid}
  return 0
}
