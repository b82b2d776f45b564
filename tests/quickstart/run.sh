#!/usr/bin/env bash
# `make run`: starts a node on this machine, deploys a small app, fetches a page through its Service, and says what to
# try next. Ctrl-C (or ONCE=1, after the page) stops it and removes everything that it made.
#   DATA_DIR=/var/lib/reeve-quickstart  where its state lies
#   SERVER_FLAGS="…"                    further flags for `reeve server`
set -euo pipefail
reeve=$(realpath "${1:?usage: run.sh PATH-OF-REEVE}")
here=$(dirname "$(realpath "$0")")
export PATH="$PATH:/usr/sbin:/sbin"
data=${DATA_DIR:-/var/lib/reeve-quickstart}
once=${ONCE:-}
read -ra server_flags <<<"${SERVER_FLAGS:-}"

if [ "$(id -u)" -ne 0 ]; then
  exec sudo --preserve-env=DATA_DIR,ONCE,SERVER_FLAGS "$0" "$reeve"
fi

say() { printf '\n==> %s\n' "$*"; }
server=""
finish() {
  status=$?
  trap - EXIT INT TERM
  say "Stopping, and removing what was made"
  if [ -n "$server" ]; then
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  if [ "$status" -ne 0 ] && [ -f "$data/server.log" ]; then
    echo "The end of reeve's log:" >&2
    tail -n 40 "$data/server.log" >&2
  fi
  "$reeve" cleanup --data-dir "$data" --yes || status=1
  if [ "$status" -eq 0 ] || [ "$status" -ge 128 ]; then
    rm -f "$data/server.log"
    rmdir "$data" 2>/dev/null || true
  fi
  exit "$status"
}

# What an earlier run left, if it was killed.
"$reeve" cleanup --data-dir "$data" --yes
mkdir -p -m 0700 "$data"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "Starting reeve server (state in $data, log in $data/server.log)"
began=$(date +%s.%N)
"$reeve" server --data-dir "$data" --root-dir "$data/kubelet" --pod-logs-dir "$data/pod-logs" "${server_flags[@]}" \
  >"$data/server.log" 2>&1 &
server=$!
export KUBECONFIG="$data/admin.kubeconfig"
kubectl() { "$reeve" kubectl "$@"; }
# wait_for SECONDS WHAT COMMAND…: until the command succeeds; at once an error when the server ends.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$server" 2>/dev/null; then
      echo "reeve server ended while waiting for $what" >&2
      return 1
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      echo "gave up waiting for $what" >&2
      return 1
    fi
    sleep 0.1
  done
}
wait_for 120 "the credential" test -s "$KUBECONFIG"
node_registered() { [ -n "$(kubectl get nodes -o name --request-timeout=2s)" ]; }
wait_for 120 "the node" node_registered
kubectl wait --for=condition=Ready node --all --timeout=120s
printf 'Node Ready %.1f s after the start\n' "$(awk "BEGIN {print $(date +%s.%N) - $began}")"
kubectl get nodes -o wide

say "Deploying three pods and a Service"
kubectl apply -f "$here/app.yaml"
kubectl rollout status deployment/hello --timeout=180s
kubectl get pods -o wide

address=$(kubectl get service hello -o jsonpath='{.spec.clusterIP}')
say "Fetching http://$address/ (the Service's address) a few times"
wait_for 60 "an answer through the Service" curl -fsS --noproxy '*' --max-time 2 "http://$address/"
for _ in 1 2 3 4 5 6; do
  curl -fsS --noproxy '*' --max-time 5 "http://$address/"
done

if [ "$once" = 1 ]; then
  say "Done"
  exit 0
fi
cat <<EOT

It runs. In another terminal, as root:

  export KUBECONFIG=$KUBECONFIG
  alias kubectl='$reeve kubectl'
  kubectl get pods -A -o wide
  kubectl scale deployment hello --replicas=5
  kubectl logs -l app=hello --prefix
  curl http://$address/

Ctrl-C stops it and removes everything.
EOT
wait "$server"
