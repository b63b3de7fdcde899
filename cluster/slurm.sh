#!/bin/bash
# Starts Ray on every node of a Slurm allocation, and the job on the first node:
#
#     sbatch --nodes=4 cluster/slurm.sh SPEC
#
# distfacegan must be in the PATH of the shell that calls sbatch, which passes its environment on.
# Every node must see SPEC, the photos, the run directory and the folder in which sbatch is called.

#SBATCH --job-name=distfacegan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --exclusive         # because `ray stop` at the end stops every Ray of this user on the node
#SBATCH --requeue           # after a lost node or a preemption Slurm starts the job again: it resumes
#SBATCH --signal=B:USR1@60  # a minute before the time limit the job goes back to the queue, see below
#SBATCH --open-mode=append

set -euo pipefail

if [[ $# -ne 1 || ! -f $1 ]]; then
    echo "usage: sbatch cluster/slurm.sh SPEC, a job spec (YAML) that every node sees" >&2
    exit 2
fi
spec=$(realpath "$1")

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ip=$(getent ahostsv4 "$first" | awk 'NR == 1 { print $1 }')
if [[ -z $ip || $ip == 127.* ]]; then
    echo "the name $first stands for ${ip:-nothing} here, not for an address that other nodes reach" >&2
    exit 2
fi

# The token of this cluster. Only the user can read the file, and the end of the job deletes the file.
private=$(mktemp -d "$SLURM_SUBMIT_DIR/.distfacegan-$SLURM_JOB_ID-XXXXXX")
trap 'rm -rf "$private"' EXIT
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$private/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token
unset RAY_AUTH_TOKEN  # Ray would use this variable instead of the file

export RAY_ADDRESS=$ip:$((20000 + SLURM_JOB_ID % 10000))
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export RAY_health_check_period_ms=2000 RAY_health_check_timeout_ms=5000
export RAY_health_check_failure_threshold=3  # a lost node is noticed in 3 * (2 + 5) = 21 s instead of 65 s
export RAY_gcs_rpc_server_reconnect_timeout_s=10  # the other nodes end soon after the first node
export RAY_USAGE_STATS_ENABLED=0
unset OMP_NUM_THREADS  # Ray then sets this variable to each worker's share of the cores

# Slurm does not restart a job that reaches its time limit. Therefore the job puts itself back into the
# queue before. srun runs in the background, because bash handles a signal only between commands.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

# shellcheck disable=SC2016  # $1 and $2 are the inner shell's
srun --wait=60 ray symmetric-run \
    --address "$RAY_ADDRESS" \
    --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" \
    --temp-dir "/tmp/dfg-$SLURM_JOB_ID" \
    -- bash -c 'distfacegan run "$1"; echo $? >"$2"' bash "$spec" "$private/exit-code" &
while kill -0 $! 2>/dev/null; do wait $! || true; done

# srun's exit code is not used: it is 0 if Ray's head did not start, and not 0 if srun had to end a
# worker.
if [[ ! -s $private/exit-code ]]; then
    echo "the job was interrupted or Ray did not start; give the same command again" >&2
    exit 1
fi
exit "$(<"$private/exit-code")"
