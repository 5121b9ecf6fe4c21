#!/usr/bin/env bash
# Memory and open files of a long run: two ranks that train, evaluate, sample and save without end.
#
#   bench/soak.sh TRAIN.safetensors VALIDATION.safetensors [MINUTES] [patrain's arguments ...]     (default: 60)
#
# BIN is the folder of patrain (default: build/cpu/bin), CONFIG another configuration than configs/demo.ini, RUN a
# folder that the run is to stay in (default: a temporary one). Prints a row a minute for each rank: steps, resident
# memory, of it what is the rank's own, open files, threads. Exits non-zero where the run ended early.
set -euo pipefail
cd "$(dirname "$0")/.."

train=${1:?a token file to train on} validation=${2:?a token file to evaluate on} minutes=${3:-60}
bin=${BIN:-build/cpu/bin}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
run=${RUN:-$scratch/run}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMPI_MCA_hwloc_base_binding_policy=none

mpirun -n 2 "$bin/patrain" "${CONFIG:-configs/demo.ini}" --device cpu --run-dir "$run" \
  data.train="$train" data.validation="$validation" \
  train.steps=0 train.epochs=0 train.minutes="$minutes" optimizer.warmup=0 checkpoint.every=20 checkpoint.keep=3 \
  log.every=100 log.eval_every=60 log.eval_pieces=4 log.sample_every=120 "${@:4}" 2> "$scratch/said" &
started=$SECONDS mpirun=$!

ranks() { pgrep -P "$mpirun" | sort -n; } # by parent: patrain starts itself again, as "exe"
kilobytes() { awk -v key="$2:" '$1 == key { print $2 }' "/proc/$1/$3"; }

printf '%7s %5s %7s %10s %10s %6s %8s\n' minute rank steps 'MB' 'own MB' files threads
for ((minute = 1; minute < minutes; minute++)); do
  sleep $((started + 60 * minute - SECONDS)) || true
  steps=$(grep -c '"loss"' "$run/metrics.jsonl" || true) rank=0
  for pid in $(ranks); do
    files=("/proc/$pid/fd/"*) threads=("/proc/$pid/task/"*)
    printf '%7d %5d %7d %10.1f %10.1f %6d %8d\n' "$minute" "$rank" "$steps" \
      "$(kilobytes "$pid" VmRSS status | awk '{ print $1 / 1024 }')" \
      "$(kilobytes "$pid" RssAnon status | awk '{ print $1 / 1024 }')" "${#files[@]}" "${#threads[@]}"
    rank=$((rank + 1))
  done
done
status=0
wait "$mpirun" || status=$?
printf 'exit %d; %d checkpoints kept, %d samples, %d evaluations, %d steps\n' "$status" \
  "$(find "$run/checkpoints" -mindepth 1 -maxdepth 1 | wc -l)" "$(find "$run/samples" -type f | wc -l)" \
  "$(grep -c eval_loss "$run/metrics.jsonl")" "$(grep -c '"loss"' "$run/metrics.jsonl")"
((status == 0)) || tail -n 5 "$scratch/said"
exit "$status"
