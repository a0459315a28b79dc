# Where everything of the test cluster lives; sourced by the scripts beside it.
K8S_VERSION=1.35.4
CLUSTER_CACHE=${CLUSTER_CACHE:-${OPENLAMBDA_CACHE:-/var/cache/openlambda}/cluster} # what was built, kept between runs
CLUSTER_STATE=${CLUSTER_STATE:-/var/lib/openlambda-cluster}   # etcd, containerd, kubelet data; gone after ./down
CLUSTER_RUN=${CLUSTER_RUN:-/run/openlambda-cluster}           # sockets and pids; gone after ./down
CLUSTER_LOGS=$CLUSTER_STATE/logs
HOST_IP=172.30.0.1                                            # API server, on bridge klab0
NODE_NET=172.30.0                                             # node N is $NODE_NET.(10+N)
POD_NET=10.244                                                # node N's pods are $POD_NET.N.0/24
SERVICE_CIDR=10.96.0.0/16
export KUBECONFIG=$CLUSTER_STATE/kubeconfig
PATH=$CLUSTER_CACHE/bin:$PATH

# Two processes never build the same thing at the same time: the second one waits and then finds it.
only_one() { # only_one NAME: until this process ends
  mkdir -p "$CLUSTER_CACHE/bin" "$CLUSTER_CACHE/locks"
  exec 9>"$CLUSTER_CACHE/locks/$1"
  flock -n 9 || { echo "cluster: waiting for another process that is at $1" >&2; flock 9; }
}

# Installs those of Debian's packages that are missing. Pairs of a program (in PATH or as a path) and its package.
need() { # need PROGRAM=PACKAGE...
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || { echo "cluster: missing here: ${missing[*]} (Debian's names); install them by hand" >&2; exit 1; }
  echo "cluster: installing ${missing[*]}" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need_go() { # all that comes as Go modules asks for this
  local have
  have=$(go env GOVERSION 2>/dev/null) || { echo "cluster: this needs Go 1.25 or newer to build with, and there is no go in PATH" >&2; exit 1; }
  [ "$(printf '%s\n' go1.25 "$have" | sort -V | head -1)" = go1.25 ] || { echo "cluster: this needs Go 1.25 or newer, not $have" >&2; exit 1; }
}
