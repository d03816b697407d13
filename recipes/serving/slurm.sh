#!/usr/bin/env bash
# A Ray cluster on the nodes of a Slurm job, and a command on it. Tried on a one-node Slurm without GPUs.
#
#   sbatch --nodes 4 --gpus-per-node 8 --cpus-per-task 64 recipes/serving/slurm.sh \
#       qsave score --jsonl clips.jsonl --ray scored --scores-only
#   sbatch --nodes 4 --gpus-per-node 8 --cpus-per-task 64 recipes/serving/slurm.sh \
#       qsave serve --ray --host 0.0.0.0 --token-file token
#
# Submit it with the environment active, in which `qsave` and `ray` are found. All nodes need the environment,
# the model and the clips at the same paths. A scoring job that was stopped goes on when it is submitted again;
# a server that is ended by `scancel --batch --signal=TERM JOB` answers first what is under way.
#SBATCH --job-name=qsave-ray
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail
if [ $# -lt 1 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "usage: sbatch --nodes N --cpus-per-task C [--gpus-per-node G] $0 qsave COMMAND --ray ..." >&2
    exit 2
fi

# Ray runs what it is sent, so nobody without the token of this job may send anything.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
read -r head_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$head_node:${RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
cpus=${SLURM_CPUS_PER_TASK:-1}
on_nodes=(srun --ntasks-per-node=1 --cpus-per-task="$cpus" --kill-on-bad-exit=1)
command=
finish() { # the command first, then the cluster under it
    kill $command 2>/dev/null && wait $command
    kill $(jobs -p) 2>/dev/null
    wait
}
trap finish EXIT
trap 'exit 143' TERM

"${on_nodes[@]}" --nodes=1 --ntasks=1 --nodelist="$head_node" ray start --head --block --disable-usage-stats \
    --include-dashboard=false --port="${address##*:}" --num-cpus="$cpus" --temp-dir="/tmp/ray-$SLURM_JOB_ID" \
    >>"ray-$SLURM_JOB_ID.log" 2>&1 &
until (exec 3<>"/dev/tcp/$head_node/${address##*:}") 2>/dev/null; do
    kill -0 $! # the head has ended: so does this script
    sleep 1
done
if [ "$SLURM_NNODES" -gt 1 ]; then
    "${on_nodes[@]}" --nodes="$((SLURM_NNODES - 1))" --ntasks="$((SLURM_NNODES - 1))" --exclude="$head_node" \
        ray start --address="$address" --block --num-cpus="$cpus" >>"ray-$SLURM_JOB_ID.log" 2>&1 &
fi

export RAY_ADDRESS=$address
python - "$SLURM_NNODES" <<'EOF'
import sys, time, ray

ray.init(log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    time.sleep(1)
EOF
"$@" &
command=$!
wait $command
