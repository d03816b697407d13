#!/usr/bin/env bash
# A recipe on several nodes by DeepSpeed's launcher, which reaches them by ssh. Not yet run on a real cluster.
#
#   recipes/cluster/hostfile.sh HOSTFILE recipes/reward/sft.py --config configs/reward/qwen3vl-8b/1_sft.yaml
#
# HOSTFILE has a line for each node, for example "node1 slots=8". All nodes need this folder, the environment
# and the output directory at the same paths.
set -euo pipefail
if [ $# -lt 2 ] || [ ! -r "$1" ]; then
    echo "usage: $0 HOSTFILE SCRIPT OPTION..." >&2
    exit 2
fi
hostfile=$1
shift
exec deepspeed --hostfile "$hostfile" --master_port "${MASTER_PORT:-29500}" "$@"
