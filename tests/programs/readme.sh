#!/usr/bin/env bash
# Runs README's commands unchanged in an empty folder. A dozen generated pieces stand in for MAESTRO and for a user's
# own files, and patrain trains a tiny model for three steps. The demo runs on the same pieces for some seconds, and
# only from its own build folder, build/cpu.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD bin=$(realpath "${PA_BIN:-build/cpu/bin}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tiny=(model.context=128 model.prefix=48 model.dim=32 model.heads=1 model.depth=1
  train.steps=3 train.minutes=0 train.epochs=0 train.global_batch=2 train.micro_batch=2
  optimizer.warmup=1 log.eval_pieces=2)

mkdir -p "$work/build/cpu"
ln -s "$bin" "$work/build/cpu/bin"
ln -s "$root/configs" "$work/configs"
python3 - "$work" "$root/scripts" << 'END'
import pathlib, random, sys
sys.path.insert(0, sys.argv[2])
import chorales
work, rng = pathlib.Path(sys.argv[1]), random.Random(1)
corpus = work / "maestro-v3.0.0"
corpus.mkdir()
rows = ["canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration"]
for i in range(12):
    notes = [(t / 4, t / 4 + rng.uniform(0.1, 0.5), 40 + rng.randrange(40), rng.randrange(30, 100)) for t in range(160)]
    (corpus / f"{i}.midi").write_bytes(chorales.midi(notes))
    rows.append(f"Nobody,Piece {i},{('train', 'train', 'validation', 'test')[i % 4]},2004,{i}.midi,{i}.wav,40.0")
(corpus / "maestro-v3.0.0.csv").write_text("\n".join(rows) + "\n")
(work / "opening.mid").write_bytes((corpus / "0.midi").read_bytes())
(work / "my-midi").mkdir()
for i in range(12):
    (work / "my-midi" / f"{i}.mid").write_bytes((corpus / f"{i}.midi").read_bytes())
END

# An emulated build would use the GPU that it emulates, which is slow.
export PA_EMULATOR_SM=0
# By default mpirun refuses more ranks than cores, and root.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

ran=0
while IFS= read -r line; do
  read -r -a words <<< "${line%%#*}"
  case ${words[0]:-} in
    '') continue ;;
    cmake) continue ;;
    scripts/demo.sh)
      [[ $bin == "$root/build/cpu/bin" ]] || continue
      mkdir "$work/desktop"
      echo "#!/bin/sh
        echo \"\$1\" >> '$work/opened'" > "$work/desktop/xdg-open"
      chmod +x "$work/desktop/xdg-open"
      words=(env DISPLAY=:0 "PATH=$work/desktop:$PATH" "$root/scripts/demo.sh" --midi "$work/maestro-v3.0.0"
        --minutes 0.05 --out "$work/runs/demo")
      ;;
    scripts/*)
      [[ -x $root/${words[0]} ]] || { echo "README.md: ${words[0]} does not exist or is not executable"; exit 1; }
      continue
      ;;
    mpirun)
      command -v mpirun > /dev/null || continue
      words=(env ASAN_OPTIONS=detect_leaks=0 "${words[@]}" "${tiny[@]}") # MPI leaks in plugins that it unloads
      ;;
    */patrain) words+=("${tiny[@]}") ;;
  esac
  echo "\$ ${line}"
  (cd "$work" && "${words[@]}") || { echo "README.md: this command failed: $line"; exit 1; }
  ran=$((ran + 1))
done < <(awk '/^```/ { inside = $0 == "```sh"; next }
  inside { end = sub(/ *\\$/, "") ? " " : "\n"; printf "%s%s", $0, end }' README.md)

[[ $ran -ge 4 ]] || { echo "README.md: only $ran commands were found to run"; exit 1; }
if [[ -d $work/runs/demo ]]; then # on a desktop, both pages of the demo are opened
  for name in prelude continuation; do
    for end in mid mp3 png html; do
      [[ -s $work/runs/demo/$name.$end ]] || { echo "demo.sh left no $name.$end"; exit 1; }
    done
  done
  until [[ $(wc -l < "$work/opened") -ge 2 ]]; do sleep 0.1; done # the demo does not wait for a browser
  [[ $(< "$work/opened") == "$work/runs/demo/prelude.html"$'\n'"$work/runs/demo/continuation.html" ]] ||
    { echo "demo.sh opened:"; cat "$work/opened"; exit 1; }
fi
for file in continuation.mid mine.mid; do
  [[ -s $work/$file ]] || { echo "README.md: its commands left no $file"; exit 1; }
done
