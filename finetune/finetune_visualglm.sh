#!/usr/bin/env bash
# Teach the model to say what is in the background of a picture, from 20 labelled ones.
#   bash finetune/finetune_visualglm.sh
#   NUM_GPUS=4 bash finetune/finetune_visualglm.sh --train-data my/dataset.json --zero-stage 1
# Flags are passed on to finetune_visualglm.py and win over those below; its --help explains them.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
[ -d fewshot-data ] || "$python" -m zipfile -e fewshot-data.zip .

base=$("$python" -m finetune.base "$@")
if [ "$base" = visualglm-tiny ]; then
    # What looks at pictures has to bring out their backgrounds, and what speaks of them has to name these.
    settings=(--lora_targets llm qformer --lora_alpha 10 --lr 0.004 --train-iters 500 --batch-size 8 --crop 0.15 --flip
        --remember 720 --remember-weight 0.1)
    if [ "${METHOD:-}" = --use_ptuning ]; then
        settings=(--pre_seq_len 32 --lr 0.1 --train-iters 400 --batch-size 8 --crop 0.3 --remember 360 --remember-weight 0.3)
    fi
else
    settings=(--layer_range 0 14 --train-iters 300 --batch-size 4)
fi
launcher=("$python")
if [ "${NUM_GPUS:-1}" -gt 1 ]; then
    launcher=("$python" -m torch.distributed.run --standalone --nproc_per_node "$NUM_GPUS")
fi
exec "${launcher[@]}" finetune/finetune_visualglm.py --from_pretrained "$base" "${METHOD:---use_lora}" \
    --train-data fewshot-data/dataset.json --lora_rank 10 --save checkpoints "${settings[@]}" "$@"
