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
    settings=(--batch-size 8 --crop 0.5 --flip --remember 360)
    if [ "${METHOD:-}" = --use_ptuning ]; then
        settings+=(--pre_seq_len 32 --lr 0.1 --train-iters 400 --remember-weight 0.5)
    else
        settings+=(--lora_alpha 10 --lr 0.003 --train-iters 250 --remember-weight 0.3)
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
