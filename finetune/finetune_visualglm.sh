#!/usr/bin/env bash
# Fine-tune the model on your images, or without --train-data on 20 bundled images, to name their backgrounds.
#   bash finetune/finetune_visualglm.sh
#   bash finetune/finetune_visualglm.sh --train-data my-images/dataset.json --valid-share 0.1
#   NUM_GPUS=4 bash finetune/finetune_visualglm.sh --train-data my-images/dataset.json --zero-stage 1
#   bash finetune/finetune_visualglm.sh --config examples/recipes/fewshot_tiny_lora.yaml
# All flags are passed to finetune_visualglm.py, whose --help explains them; they override the settings below. With
# --config, none of the settings below are added; the bundled images are unpacked.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi

launcher=("$python")
if [ "${NUM_GPUS:-1}" -gt 1 ]; then
    launcher=("$python" -m torch.distributed.run --standalone --nproc_per_node "$NUM_GPUS")
fi
unpack() { [ -d fewshot-data ] || "$python" -m zipfile -e fewshot-data.zip .; }

data=()
is_bundled=yes
has_recipe=
for argument in "$@"; do
    case "$argument" in
        --train[-_]d*) is_bundled= ;;
        --config | --config=*) has_recipe=yes ;;
    esac
done
if [ "$has_recipe" ]; then
    unpack
    exec "${launcher[@]}" finetune/finetune_visualglm.py ${METHOD:+"$METHOD"} "$@"
fi
if [ "$is_bundled" ]; then
    unpack
    data=(--train-data fewshot-data/dataset.json)
fi

base=$("$python" -m finetune.methods "$@")
if [ "$base" = visualglm-tiny ]; then
    settings=(--batch-size 8 --rehearsal 360)
    # Cropping and mirroring keep the answers about the bundled images correct, since each has a uniform background. For
    # other images they may change the answer, for example to "left or right?".
    if [ "$is_bundled" ]; then
        settings+=(--crop 0.5 --flip)
        advice="; --crop 1 --no-flip disables augmentation"
    fi
    if [ "${METHOD:-}" = --use_ptuning ]; then
        settings+=(--pre_seq_len 32 --lr 0.1 --train-iters 400 --rehearsal-weight 0.5)
    else
        settings+=(--lora_alpha 10 --lr 0.003 --train-iters 250 --rehearsal-weight 0.3)
    fi
else
    settings=(--layer_range 0 14 --train-iters 300 --batch-size 4)
fi
echo "Settings of this script, which your flags override: ${settings[*]}${advice:-}" >&2
exec "${launcher[@]}" finetune/finetune_visualglm.py --from_pretrained "$base" "${METHOD:---use_lora}" \
    ${data[@]+"${data[@]}"} --lora_rank 10 --save checkpoints "${settings[@]}" "$@"
