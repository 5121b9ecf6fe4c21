#!/usr/bin/env bash
# Trains a model of the kind of models/piano, with 26 million parameters, on this machine's GPU, in the folder that
# scripts/bundle.sh --pieces 0 made.
#
#   bench/train_on_gpu.sh [MINUTES [section.key=value or patrain's options ...]]      ten minutes if not given
#
# Writes train.log, metrics.jsonl, config.ini and the newest checkpoint's model.safetensors, in parts of 15 MiB, into out/
# or $OUT, each minute and at the end. `cat model.safetensors.part-* > model.safetensors` joins the parts; a folder with
# that file and config.ini is a model for pagen, paeval and patrain --init.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
minutes=${1:-10}
[[ $minutes =~ ^[0-9.]+$ ]] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
shift $(($# > 0))
out=$(realpath -m "${OUT:-$root/out}") run=$root/work/train
mkdir -p "$out" "$root/work"
rm -f "$out"/model.safetensors.part-*
libraries=$(cd "$root/bench" && "${PA_PYTHON:-python3}" -B -c 'import gpu_run; print(":".join(gpu_run.library_folders()))')
export LD_LIBRARY_PATH=$root/lib:$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

cat > "$root/work/train.ini" <<END
[model]
context = 2048
prefix = 1024
dim = 512
heads = 8
depth = 7
prefix_dropout = 0.5
position = rotary
[data]
train = $root/data/train.safetensors
validation = $root/data/validation.safetensors
sampling = token
piece_starts = 0.1
[train]
global_batch = 32
minutes = $minutes
epochs = 0
[optimizer]
name = muon
lr = 0.02
schedule = wsd
decay = 0.6
warmup = 100
final_lr = 0
[checkpoint]
every = 250
keep = 1
[log]
every = 100
eval_every = 500
eval_pieces = 20
END

# Copies what there is; parts of an older checkpoint go only when the newer's are there.
collect() {
  local name
  for name in train.log metrics.jsonl config.ini; do
    [[ ! -e $run/$name ]] || cp "$run/$name" "$out/"
  done
  [[ -e $run/latest/model.safetensors ]] || return 0
  rm -f "$out"/.part-*
  split -b 15M "$run/latest/model.safetensors" "$out/.part-"
  rm -f "$out"/model.safetensors.part-*
  for name in "$out"/.part-*; do mv "$name" "$out/model.safetensors${name##*/}"; done
}

"$root/bin/patrain" "$root/work/train.ini" --fresh --run-dir "$run" "$@" &
trainer=$!
trap 'kill "$trainer" 2> /dev/null || true' EXIT
while kill -0 "$trainer" 2> /dev/null; do
  for ((i = 0; i < 60; i++)); do
    sleep 1
    kill -0 "$trainer" 2> /dev/null || break
  done
  collect
done
status=0
wait "$trainer" || status=$?
trap - EXIT
collect
exit "$status"
