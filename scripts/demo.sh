#!/usr/bin/env bash
# Builds the programs, lets the model of models/piano continue the opening of a Bach prelude, then trains a small model
# on this machine and lets it continue a piece: from a fresh Debian 12 in some ten minutes on two cores. Each
# continuation is written as MIDI, sound, picture and a web page.
#
#   scripts/demo.sh                    trains on Bach's chorales
#   scripts/demo.sh --midi DIR         trains on your own folder of .mid files, subfolders included
#
#   --minutes M    minutes of training in all (default: train.minutes of configs/demo.ini)
#   --out DIR      folder for everything (default: runs/demo; with --midi DIR: runs/demo-DIR)
#
# Ctrl-C stops the training early and plays what the model has learnt so far; the same command resumes the training.
# The default model knows only chorales.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$root/scripts/demo.sh"; }
refuse() { usage >&2; echo "demo.sh: $*" >&2; exit 2; }
fail() { echo "demo.sh: $*" >&2; exit 1; }
say() { printf '\n== %s\n' "$*" >&2; }

midi='' minutes='' out=$root/runs/demo
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --midi | --minutes | --out) [[ $# -ge 2 ]] || refuse "$1 needs a value" ;;
    *) refuse "unknown argument $1" ;;
  esac
  case $1 in
    --midi)
      midi=$(realpath -m -- "$2")
      [[ -d $midi ]] || refuse "--midi: $2 is not a folder"
      [[ $out != "$root/runs/demo" ]] || out=$root/runs/demo-$(basename "$midi")
      ;;
    --minutes)
      minutes=$2
      # patrain takes 0 for no limit.
      [[ $minutes =~ ^[0-9]*\.?[0-9]+$ && $minutes == *[1-9]* ]] ||
        refuse "--minutes: expected a number above 0, found $minutes"
      ;;
    --out) out=$(realpath -m -- "$2") ;;
  esac
  shift 2
done
cd "$root"
out=${out#"$root"/}
bin=build/cpu/bin
corpus=$out/data/chorales
tokens=$out/data/tokens

# pieces FILE: number of pieces in a token file, from its header.
pieces() {
  python3 -c '
import json, struct, sys
with open(sys.argv[1], "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
print(header["offsets"]["shape"][0] - 1)' "$1"
}

# 1. Programs.
started=$SECONDS
scripts/setup.sh --build
say "Building (build/cpu)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { cmake --preset cpu && cmake --build --preset cpu --target programs; } > "$log" 2>&1; then
  tail -n 40 "$log" >&2
  fail "the build failed; its last lines are above"
fi

# continue_piece MODEL PRIMER NAME [options]: writes $out/NAME.mid, .mp3, .png and .html, and opens the page.
continue_piece() {
  local name=$out/$3
  trap true INT # on Ctrl-C pagen writes what it has and exits 75
  $bin/pagen "$1" --primer "$2" --length-seconds 60 --output "$name.mid" --mp3 "$name.mp3" \
    --piano-roll "$name.png" --html "$name.html" "${@:4}" || [[ $? -eq 75 ]]
  trap - INT
  say "$name.html plays it in a browser (sound: $3.mp3, picture: $3.png, MIDI: $3.mid)"
  if [[ -n ${DISPLAY:-}${WAYLAND_DISPLAY:-} ]] && command -v xdg-open > /dev/null; then
    xdg-open "$name.html" > /dev/null 2>&1 & # some wait until the browser ends
  fi
}

# 2. Music at once, by the trained model that comes with patrain.
say "Playing: the first bars of Bach's Prelude in C, and a minute by models/piano"
mkdir -p "$out"
continue_piece piano examples/prelude.mid prelude

# 3. Music to tokens, unless an earlier run has made them.
source=${midi:-"Bach's chorales"}
if [[ -f $out/data/source && $(< "$out/data/source") != "$source" ]]; then
  fail "$out holds a model of $(< "$out/data/source"), not of $source: choose another folder with --out"
fi
mkdir -p "$out/data"
if [[ ! -f $out/data/source ]]; then
  if [[ -n $midi ]]; then
    say "Preparing the MIDI files of $midi"
    $bin/paprep "$midi" "$tokens"
  else
    say "Preparing Bach's chorales"
    python3 scripts/chorales.py "$corpus"
    $bin/paprep "$corpus" "$tokens" --metadata "$corpus/chorales.csv"
  fi
  echo "$source" > "$out/data/source"
fi

# A small folder may leave a split empty. The next best split replaces it, and the report says so.
validation=$tokens/validation.safetensors test=$tokens/test.safetensors unseen=true
[[ $(pieces "$tokens/train.safetensors") -gt 0 ]] || fail "$source: no pieces to train on (see the table above)"
if [[ $(pieces "$validation") -eq 0 ]]; then
  validation=$test
  [[ $(pieces "$test") -gt 0 ]] || validation=$tokens/train.safetensors unseen=false
fi
[[ $(pieces "$test") -gt 0 ]] || test=$validation

# 4. Training. Ctrl-C reaches patrain too, which saves and exits 75; this script continues.
say "Training (Ctrl-C saves and skips to the music)"
trap true INT
status=0
$bin/patrain configs/demo.ini "data.train=$tokens/train.safetensors" "data.validation=$validation" \
  ${minutes:+"train.minutes=$minutes"} --run-dir "$out" || status=$?
trap - INT
case $status in
  0) ;;
  75) echo "demo.sh: training stopped and saved; the same command resumes it" >&2 ;;
  *) fail "training failed with exit status $status; its error is above" ;;
esac
compgen -G "$out/checkpoints/step-*" > /dev/null ||
  fail "training stopped before its first checkpoint, so there is no model yet; the same command starts again"

# 5. How good it is.
say "Measuring"
# Loss on the same crops of the validation pieces, before and after; then on every token of the test pieces.
read -r before after < <(python3 -c '
import json, sys
with open(sys.argv[1]) as lines:
    losses = {row["step"]: row["eval_loss"] for row in map(json.loads, lines) if "eval_loss" in row}
print("%.3f" % losses[0] if 0 in losses else "unknown")
print("%.3f" % losses[max(losses)] if losses else "unknown")' "$out/metrics.jsonl" | paste -sd ' ')
whole=$($bin/paeval "$out" "$test" --json | python3 -c 'import json, sys; print("%.3f" % json.load(sys.stdin)["loss"])')

# 6. Music: the model continues the opening of a piece it has not seen.
primer=$test:0
if [[ -z $midi ]]; then
  primer=$corpus/$(awk -F, '$3 == "test" { print $5; exit }' "$corpus/chorales.csv")
fi
say "Playing"
continue_piece "$out" "$primer" continuation --prime-seconds 15

if $unseen; then which='unseen pieces'; else which='the pieces it was trained on (too few to hold any back)'; fi
again=scripts/demo.sh
[[ -z $midi ]] || again+=$(printf ' --midi %q' "$midi")
[[ $out == runs/demo || $out == runs/demo-$(basename "$midi") ]] || again+=$(printf ' --out %q' "$out")
play="$bin/pagen $(printf '%q' "$out") --primer"
cat << END

Made in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s:
  $out/prelude.html         40 s of Bach's Prelude in C, then 60 s by the model that comes with patrain
  $out/continuation.html    15 s of $primer, then 60 s by the model trained now
                             (each is a page that plays; .mid, .mp3 and .png beside it)
  $out    the model, its checkpoints and its training log

How good: loss in nats per token on $which (lower is better)
  before training   $before
  after training    $after
  best checkpoint, on all of the test pieces: $whole

What next:
  another continuation       $play $(printf '%q' "$primer") --prime-seconds 15 --seed 2 --output second.mid
  bolder, or more careful    add --temperature 1, or --temperature 0.8
  continue your own playing  $bin/pagen piano --primer YOURS.mid --output continued.mid --html continued.html
  train for longer           $again --minutes 60
  train on your own music    scripts/demo.sh --midi FOLDER
  install the programs       cmake --install build/cpu --prefix ~/.local
  train on MAESTRO           README.md, "Train on MAESTRO"
END
