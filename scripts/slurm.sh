#!/usr/bin/env bash
#SBATCH --job-name=patrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
# An example of a run of many ranks under Slurm: one rank a GPU (without --gpus-per-node, one rank per --cpus-per-task
# cores). Three minutes before the time limit Slurm sends SIGUSR1 to the ranks; they finish the step, save and exit with
# 75, and the job requeues itself. If a rank dies, the run aborts (exit 1) and so does the job; the same sbatch resumes
# from the last checkpoint.
#
#   sbatch [--nodes=N ...] scripts/slurm.sh \
#     build/default/bin/patrain configs/v4.ini [section.key=value ...] --run-dir runs/v4
#
# The run directory must be on a file system that all nodes share. Ranks find each other by a file, with or without MPI.
set -uo pipefail
[[ $# -ge 2 && -n ${SLURM_JOB_ID:-} ]] || { sed -n '/^# An example/,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2; }

srun --kill-on-bad-exit=1 "$@" --rendezvous "${SLURM_SUBMIT_DIR:-$PWD}/rendezvous-$SLURM_JOB_ID"
status=$?
if [[ $status -eq 75 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
