#!/usr/bin/env bash
# Like finetune_visualglm.sh, but with 4-bit weights of the language model, which takes less than half of the memory.
METHOD=--use_qlora exec bash "$(dirname "$0")/finetune_visualglm.sh" "$@"
