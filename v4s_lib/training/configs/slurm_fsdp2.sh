#!/bin/bash
# Full scale on several nodes: sbatch v4s_lib/training/configs/slurm_fsdp2.sh CACHE WEIGHTS OUT [more options]
# Submit it from the root of the checkout, with the environment active. All nodes must see the three folders. When the
# time is up, submit it again: it goes on from the newest checkpoint, with another number of nodes if need be, as long
# as the number of GPUs divides the scale's batch (64 at full scale).
#SBATCH --job-name=v4s-full
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00

set -euo pipefail
cache=$1 weights=$2 out=$3
shift 3
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

# SLURM_NODEID is another on each node, so it is read there.
srun bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' launch \
  --config_file v4s_lib/training/configs/fsdp2.yaml \
  --num_machines "$SLURM_NNODES" --num_processes $((8 * SLURM_NNODES)) \
  --main_process_ip "$head" --main_process_port 29500 --rdzv_backend c10d \
  -m v4s_lib.training.finetune --scale full --cache "$cache" --weights "$weights" --out "$out" "$@"
