"""deepspeed's engine as the optimizer, for one process or many."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .batches import Batch
from .optimizer import BETAS, EPSILON, OptimizerSettings, OptimizerStep

# Gradients that deepspeed sends at once, its default; it takes memory for so many even where there are fewer.
MAX_REDUCE_BUCKET_SIZE = 500_000_000
DEEPSPEED_TAG = "deepspeed"


class DeepspeedOptimizer:
    """deepspeed's engine.

    Args:
        module: returns a loss.
        parameters: those to train; the engine keeps copies of them in float32.
        settings: how.
    """

    def __init__(self, module: nn.Module, parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> None:
        import deepspeed

        self.state_name = DEEPSPEED_TAG
        os.environ.setdefault("LOCAL_RANK", "0")  # deepspeed asks for it, also in a single process
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
        """Do nothing: the engine has given all weights one dtype."""
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def step(self, lr: float) -> OptimizerStep:
        """Change the parameters."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        skipped = self.engine.skipped_steps
        self.engine.step()
        # Some stages skip in other dtypes too; there a length without end is an error, which the loop raises.
        return OptimizerStep(
            self.scales_loss and self.engine.skipped_steps > skipped, self.engine.get_global_grad_norm()
        )

    def wait_for_params(self) -> None:
        """Wait for weights on their way: after an evaluation ZeRO 3 fetches some for a way back that never comes."""
        self.engine.empty_partition_cache()

    def save(self, folder: Path) -> None:
        """Write deepspeed's own checkpoint, without the weights that are not trained."""
        self.engine.save_checkpoint(str(folder), tag=DEEPSPEED_TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        self.engine.load_checkpoint(str(folder), tag=DEEPSPEED_TAG, load_module_strict=False)


def unsharded_numel(parameter: nn.Parameter) -> int:
    """Return how many numbers a parameter has, also where ZeRO 3 has cut it up."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def deepspeed_config(settings: OptimizerSettings, trained: int) -> dict[str, Any]:
    """Return deepspeed's configuration for so many numbers that are trained."""
    options = {"lr": 0.0, "betas": BETAS, "eps": EPSILON, "weight_decay": settings.weight_decay}
    if not settings.offload:  # for that deepspeed has one of its own
        options |= {"torch_adam": True, "fused": True}
    zero: dict[str, Any] = {"stage": settings.zero_stage, "reduce_bucket_size": min(MAX_REDUCE_BUCKET_SIZE, trained)}
    if settings.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.clip_grad,
        "optimizer": {"type": "AdamW", "params": options},
        "zero_optimization": zero,
        "fp16": {"enabled": settings.dtype == torch.float16},
        # The gradient's length, which is read later, says as much as a check that a GPU would be waited for.
        "bf16": {"enabled": settings.dtype == torch.bfloat16, "check_grad_overflow": False},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it waits for a GPU twice in each step
    }
