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
    # Backgrounds are new to it, the words for them too: what looks at pictures and what says words is trained.
    settings=(--lora_targets head qformer vit --lora_alpha 10 --lr 0.003 --train-iters 200 --crop 0.3)
else
    settings=(--layer_range 0 14 --lr 0.0001 --train-iters 300 --checkpoint-activations)
fi
launcher=("$python")
if [ "${NUM_GPUS:-1}" -gt 1 ]; then
    launcher=("$python" -m torch.distributed.run --standalone --nproc_per_node "$NUM_GPUS")
fi
exec "${launcher[@]}" finetune/finetune_visualglm.py --from_pretrained "$base" "${METHOD:---use_lora}" \
    --train-data fewshot-data/dataset.json --lora_rank 10 --batch-size 4 --save checkpoints "${settings[@]}" "$@"
