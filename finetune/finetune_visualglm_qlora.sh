#!/usr/bin/env bash
# As finetune_visualglm.sh, beside language weights of 4 bits, which takes less than half of the memory.
METHOD=--use_qlora exec bash "$(dirname "$0")/finetune_visualglm.sh" "$@"
