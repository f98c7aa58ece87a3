#!/usr/bin/env bash
# Trains on all machines of a Cloud TPU slice: NAME=my-slice ZONE=us-west4-a launch/cloud_tpu.sh
# Change: the config; `--parallel.fsdp 32`, which is for 32 chips; and DIR, a directory that all machines share
# (Filestore, for example) and that has a virtual environment in .venv with the extra `tpu` of this package.
# Not run: the project had no TPU.
# The batch is 16 times the paper's: choose the learning rate and the number of steps anew. The config downloads WMT14;
# without a network, give local files.
#
# gcloud starts the same command on each machine, and the machines find each other.
set -euo pipefail
: "${NAME:?the name of the TPU}" "${ZONE:?its zone}"
DIR=${DIR:-/mnt/shared/transformer}

gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="cd $DIR && . .venv/bin/activate && \
    transformer train --config wmt14_big --parallel.fsdp 32 --training.batch-tokens 400000 --run-dir runs/wmt14_big"
