"""The optimizer around a module's loss: what the loop needs of one, and a plain one for a single process."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from .batches import Batch

BETAS, EPSILON = (0.9, 0.95), 1e-8
STATE_NAME = "optimizer.pt"


@dataclass(frozen=True)
class OptimizerSettings:
    """How to optimize.

    Attributes:
        weight_decay: of AdamW.
        clip_grad: the longest gradient; 0 for any.
        dtype: that the model computes in.
        batch_size, accumulation: examples at a time, and batches to a step.
        zero_stage, offload: of deepspeed.
    """

    weight_decay: float
    clip_grad: float
    dtype: torch.dtype
    batch_size: int
    accumulation: int = 1
    zero_stage: int = 0
    offload: bool = False


@dataclass(frozen=True)
class OptimizerStep:
    """What came of a step.

    Either is a number, or a tensor that the device has yet to compute.

    Attributes:
        is_skipped: float16 had no room for the gradients, and nothing was changed.
        norm: length of the gradient before it was clipped; None where it is not known.
    """

    is_skipped: bool | torch.Tensor
    norm: float | torch.Tensor | None = None


class AsyncScalars:
    """Numbers that the host reads later, without waiting for what a GPU was given to do after them.

    Args:
        numbers: or tensors of one number, still to be computed.
        device: that computes them.
    """

    def __init__(self, numbers: Iterable[float | torch.Tensor], device: torch.device) -> None:
        self.event: torch.cuda.Event | None = None
        given = [torch.as_tensor(number, dtype=torch.float64) for number in numbers]
        if device.type != "cuda":
            self.buffer = torch.stack([number.detach().cpu() for number in given])
            return
        scalars = torch.stack([number.detach().to(device, non_blocking=True) for number in given])
        self.buffer = torch.empty(scalars.shape, dtype=scalars.dtype, pin_memory=True).copy_(scalars, non_blocking=True)
        self.event = torch.cuda.Event()
        self.event.record()

    def read(self) -> list[float]:
        """Return the numbers as soon as they are there."""
        if self.event is not None:
            self.event.synchronize()
        numbers: list[float] = self.buffer.tolist()
        return numbers


@dataclass(frozen=True)
class StepResult:
    """A step that was made and not yet looked at.

    Attributes:
        number: of the step, from 1.
        outcome: the loss summed over this process's tokens; the tokens of all processes, those that count less as
            less; 1 where float16 had no room; the length of the gradient; how many processes were asked to stop.
        rows: that it saw.
        rate: of learning.
    """

    number: int
    outcome: AsyncScalars
    rows: list[int]
    lr: float


class Optimizer(Protocol):
    """What the loop needs.

    Attributes:
        saved_as: the file or directory in a checkpoint that `save` writes.
    """

    state_name: str

    def loss(self, batch: Batch, images: torch.Tensor | None, *more: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of one batch as the module computes it from all that is given."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context in which the network computes, whatever dtypes its weights have."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss to those of the batches before it in this step."""
        ...

    def step(self, lr: float) -> OptimizerStep:
        """Change the parameters, after the last batch of the step."""
        ...

    def wait_for_params(self) -> None:
        """Let all weights lie where they belong, so that they can be read; every process calls it."""
        ...

    def save(self, folder: Path) -> None:
        """Write what is needed to go on; every process calls it."""
        ...

    def load(self, folder: Path) -> None:
        """Go on from what was written; every process calls it."""
        ...


class PlainOptimizer:
    """AdamW on numbers in float32, whatever the model computes in.

    Args:
        module: returns a loss.
        parameters: those to train; they become float32.
        settings: how.
        mixed: whether operations must be told to mix dtypes, because trained weights meet others in one.
    """

    def __init__(
        self, module: nn.Module, parameters: Iterable[nn.Parameter], settings: OptimizerSettings, uses_autocast: bool
    ) -> None:
        self.state_name = STATE_NAME
        self.module = module
        self.parameters = list(parameters)
        self.settings = settings
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        self.device = self.parameters[0].device
        self.uses_autocast = uses_autocast and settings.dtype != torch.float32
        # Fused, it needs not ask the GPU whether float16 had room, and starts a kernel instead of a dozen.
        options: dict[str, Any] = {"weight_decay": settings.weight_decay, "fused": self.device.type == "cuda"}
        self.adam = torch.optim.AdamW(self.parameters, betas=BETAS, eps=EPSILON, **options)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.dtype == torch.float16)

    def loss(self, batch: Batch, images: torch.Tensor | None, *more: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of one batch."""
        with self.autocast():
            loss: torch.Tensor = self.module(batch, images, *more)
            return loss

    def autocast(self) -> AbstractContextManager[Any]:
        """Let torch choose the dtype of each operation, where trained weights in float32 meet others."""
        return torch.autocast(self.device.type, self.settings.dtype) if self.uses_autocast else nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        self.scaler.scale(loss).backward()

    def step(self, lr: float) -> OptimizerStep:
        """Change the parameters."""
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.scaler.unscale_(self.adam)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_grad or math.inf)
        self.scaler.step(self.adam)
        self.scaler.update()
        self.adam.zero_grad(set_to_none=True)
        # The scaler skips where a gradient is no number, and then its length is none.
        return OptimizerStep(~norm.isfinite() if self.scaler.is_enabled() else False, norm)

    def wait_for_params(self) -> None:
        """Do nothing: they never move."""

    def save(self, folder: Path) -> None:
        """Write the state, and the numbers in float32 where the weights are saved in less."""
        state = {"adam": self.adam.state_dict(), "scaler": self.scaler.state_dict()}
        torch.save({**state, "parameters": [parameter.data for parameter in self.parameters]}, folder / STATE_NAME)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True)
        for parameter, kept in zip(self.parameters, state["parameters"], strict=True):
            parameter.data.copy_(kept)
        self.adam.load_state_dict(state["adam"])
        self.scaler.load_state_dict(state["scaler"])


def learning_rate_at(
    step: int, steps: int, peak: float, *, style: str, warmup: float, ratio: float, decay_steps: int | None
) -> float:
    """Return the learning rate of a step, which counts from 0.

    Args:
        steps: of the whole training.
        peak: the rate after the warm-up.
        style: constant, linear, cosine or exponential.
        warmup: share of the steps in which the rate rises in a line.
        ratio: share of the peak that is left in the end.
        decay_steps: steps until then; None for all.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    if style == "constant":
        return peak
    done = min(1.0, (step - rising) / max(1, (decay_steps or steps) - rising))
    if style == "exponential":
        return float(peak * ratio**done)
    left = 1 - done if style == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (ratio + (1 - ratio) * left)
