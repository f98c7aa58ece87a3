#!/usr/bin/env bash
# Trains on the eight GPUs of one machine: launch/eight_gpus.sh
# Change: the config, the number of GPUs and the run directory.
# Not run: the project had no machine with eight GPUs.
# The batch is 8 times the paper's: choose the learning rate and the number of steps anew. The config downloads WMT14;
# without a network, give local files.
#
# One process uses all GPUs, so there is nothing to launch. `launch/eight_gpus.sh processes` starts one process per GPU
# instead. It is a rehearsal for several machines, and needs eight times as much host memory.
set -euo pipefail
options=(--config wmt14_big --parallel.fsdp 8 --training.batch-tokens 200000 --run-dir runs/wmt14_big)

if [ "${1:-}" != processes ]; then
    exec transformer train "${options[@]}"
fi
trap 'kill -TERM $(jobs -p); wait' INT TERM # bash starts them so that they ignore Ctrl-C
for gpu in {0..7}; do
    CUDA_VISIBLE_DEVICES=$gpu \
        transformer train "${options[@]}" --coordinator 127.0.0.1:8476 --processes 8 --process "$gpu" &
done
for gpu in {0..7}; do
    wait -n # the status of the next process that ends; the first failure ends this script, and the others notice
done
