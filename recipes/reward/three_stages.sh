#!/usr/bin/env bash
# SFT, GRPO, SFT on kept reasons, each followed by an evaluation, and one table on the standard output.
#
#   recipes/reward/three_stages.sh configs/reward/tiny outputs/three_stages
#   LAUNCH="accelerate launch --config_file configs/accelerate/zero2.yaml" recipes/reward/three_stages.sh ...
#
# The first stage starts from the model that CONFIG_DIR/1_sft.yaml names. A stage that is done is not done
# again, and one that was killed goes on from its last checkpoint, so the same command resumes a run.
set -euo pipefail
if [ $# -ne 2 ]; then
    echo "usage: $0 CONFIG_DIR OUT" >&2
    exit 2
fi
config=$1
out=$2
recipes=$(dirname "$0")
launch=${LAUNCH:-python}
# KEEP_DATA, KEEP_TRIES, KEEP_MARGIN, EVAL_DATA, EVAL_LIMIT
source "$config/stages.env"
mkdir -p "$out"

# train STAGE SCRIPT OPTION... : qsave.json is what a finished run writes last.
train() {
    local stage=$1 script=$2
    shift 2
    if [ ! -e "$out/$stage/qsave.json" ]; then
        echo "== $stage" >&2
        $launch "$recipes/$script" --config "$config/$stage.yaml" --output_dir "$out/$stage" "$@" >&2
    fi
}

evaluate() {
    local stage=$1 mode
    for mode in direct reasoned; do
        if [ ! -e "$out/$stage.$mode.json" ]; then
            echo "== evaluation of $stage, $mode" >&2
            # Exit status 1 says that answers could not be read; they are counted in the result.
            # The limit bears on direct mode alone, where reasons are a second pass that the table does not use.
            qsave eval --model "$out/$stage" --data "$EVAL_DATA" --limit "$EVAL_LIMIT" --mode "$mode" --json \
                --attribution-limit 0 > "$out/.$stage.$mode.json" \
                || test $? -eq 1 -a -s "$out/.$stage.$mode.json"
            mv "$out/.$stage.$mode.json" "$out/$stage.$mode.json"
        fi
    done
}

train 1_sft sft.py
evaluate 1_sft
train 2_grpo grpo.py --model_name_or_path "$out/1_sft"
evaluate 2_grpo
if [ ! -e "$out/3_sft/qsave.json" ]; then
    echo "== reasons of 2_grpo that people agree with" >&2
    python "$recipes/keep_reasons.py" --model "$out/2_grpo" --data "$KEEP_DATA" --n "$KEEP_TRIES" \
        --margin "$KEEP_MARGIN" --out "$out/kept.jsonl" >&2
fi
train 3_sft sft.py --model_name_or_path "$out/2_grpo" --data "$out/kept.jsonl"
evaluate 3_sft
python "$recipes/stage_table.py" "$out"
