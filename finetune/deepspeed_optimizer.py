"""An optimizer that uses deepspeed's engine, for one or several processes."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .batches import Batch
from .optimizer import BETAS, EPSILON, OptimizerSettings, OptimizerStep

# deepspeed's default number of gradient elements per all-reduce; it allocates a buffer of this size even for fewer.
MAX_REDUCE_BUCKET_SIZE = 500_000_000
DEEPSPEED_TAG = "deepspeed"
# deepspeed compiles this operation when it starts on a CPU, and never uses it in training. The compilation takes a
# minute, and if a run is killed during it, it leaves a lock that all later runs wait for, forever.
CPU_INFERENCE_OP = "deepspeed_shm_comm"


class DeepspeedOptimizer:
    """The optimizer of a deepspeed engine.

    Args:
        module: returns a loss.
        parameters: the parameters to train; the engine keeps float32 copies of them.
        settings: the settings.
    """

    def __init__(self, module: nn.Module, parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> None:
        import deepspeed
        from deepspeed.ops import __compatible_ops__ as compatible_ops

        compatible_ops[CPU_INFERENCE_OP] = False
        self.state_name = DEEPSPEED_TAG
        os.environ.setdefault("LOCAL_RANK", "0")  # deepspeed requires it even in a single process
        self.scales_loss = settings.dtype == torch.float16
        trained = list(parameters)
        config = deepspeed_config(settings, sum(unsharded_numel(parameter) for parameter in trained))
        self.engine, *_ = deepspeed.initialize(
            model=module, model_parameters=trained, config=config, dist_init_required=False
        )

    def loss(self, batch: Batch, images: torch.Tensor | None, *more: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of one batch."""
        loss: torch.Tensor = self.engine(batch, images, *more)
        return loss

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context manager that does nothing: the engine has converted all weights to one dtype."""
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Backpropagate a loss."""
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def step(self, lr: float) -> OptimizerStep:
        """Update the parameters."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        skipped = self.engine.skipped_steps
        self.engine.step()
        # Some ZeRO stages skip steps in other dtypes, too. Then the norm is inf, for which the trainer raises an error.
        return OptimizerStep(
            self.scales_loss and self.engine.skipped_steps > skipped, self.engine.get_global_grad_norm()
        )

    def wait_for_params(self) -> None:
        """Wait for outstanding fetches: in an evaluation ZeRO 3 prefetches weights for a backward pass."""
        self.engine.empty_partition_cache()

    def save(self, folder: Path) -> None:
        """Write deepspeed's checkpoint, without the frozen weights."""
        self.engine.save_checkpoint(str(folder), tag=DEEPSPEED_TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Restore the state that `save` wrote."""
        self.engine.load_checkpoint(str(folder), tag=DEEPSPEED_TAG, load_module_strict=False)


def unsharded_numel(parameter: nn.Parameter) -> int:
    """Return the number of elements of a parameter before ZeRO 3 sharded it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def deepspeed_config(settings: OptimizerSettings, num_trained: int) -> dict[str, Any]:
    """Return deepspeed's configuration for `num_trained` trainable parameters."""
    options = {"lr": 0.0, "betas": BETAS, "eps": EPSILON, "weight_decay": settings.weight_decay}
    if not settings.offload:  # for offloading, deepspeed has an AdamW of its own
        options |= {"torch_adam": True, "fused": True}
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "reduce_bucket_size": min(MAX_REDUCE_BUCKET_SIZE, num_trained),
    }
    if settings.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.clip_grad,
        "optimizer": {"type": "AdamW", "params": options},
        "zero_optimization": zero,
        "fp16": {"enabled": settings.dtype == torch.float16},
        # deepspeed's overflow check waits for the GPU. The gradient norm, which is read later, shows the same.
        "bf16": {"enabled": settings.dtype == torch.bfloat16, "check_grad_overflow": False},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU twice per step
    }
