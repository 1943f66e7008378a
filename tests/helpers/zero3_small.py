"""Run finetune_visualglm.py with small ZeRO 3 limits, so that it shards and gathers a small model like a large one."""

from typing import Any

from finetune import deepspeed_optimizer
from finetune.finetune_visualglm import main
from finetune.optimizer import OptimizerSettings

LIMITS = {  # in elements
    "stage3_prefetch_bucket_size": 300_000,
    "stage3_max_reuse_distance": 300_000,
    "stage3_param_persistence_threshold": 0,
}
plain_config = deepspeed_optimizer.deepspeed_config


def config_with_small_limits(settings: OptimizerSettings, num_trained: int) -> dict[str, Any]:
    """Return deepspeed's configuration with these limits."""
    config = plain_config(settings, num_trained)
    return {**config, "zero_optimization": {**config["zero_optimization"], **LIMITS}}


if __name__ == "__main__":
    deepspeed_optimizer.deepspeed_config = config_with_small_limits
    main()
