#!/usr/bin/env bash
# Trains on several machines of a Slurm cluster: sbatch launch/slurm.sh
# Change: the machines and GPUs, the time, the config and the run directory, which all machines must share.
# Not run: the project had no Slurm cluster.
# The batch is 16 times the paper's: choose the learning rate and the number of steps anew. The config downloads WMT14;
# without a network, give local files.
#
# One task per machine, which uses all of its GPUs. So each machine reads and compiles once, and a machine has the same
# command as without Slurm. The tasks find each other. Slurm sends SIGTERM three minutes before the time limit, and
# training then saves a checkpoint. Submit the same script again to resume.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --open-mode=append

exec srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    transformer train --config wmt14_big --parallel.fsdp 8 --training.batch-tokens 400000 --run-dir runs/wmt14_big
