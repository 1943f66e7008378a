"""The interface of optimizers, AdamW for a single process, and the learning-rate schedule."""

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
    """Settings of an optimizer.

    Attributes:
        weight_decay: AdamW's weight decay.
        clip_grad: maximum gradient norm; 0 disables clipping.
        dtype: dtype of the forward pass.
        batch_size: examples per forward pass of one process.
        accumulation: batches per optimizer step of one process.
        zero_stage, offload: see deepspeed's ZeRO.
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
    """The outcome of an optimizer step.

    Each value is a number, or a tensor that the device may not have computed yet.

    Attributes:
        is_skipped: whether the gradients overflowed float16, so that no parameter was updated.
        norm: gradient norm before clipping; None if unknown.
    """

    is_skipped: bool | torch.Tensor
    norm: float | torch.Tensor | None = None


class AsyncScalars:
    """Numbers copied to the host asynchronously; reading them does not wait for kernels that were launched later.

    Args:
        numbers: numbers, or tensors with one element, which the device may not have computed yet.
        device: the device of the tensors.
    """

    def __init__(self, numbers: Iterable[float | torch.Tensor], device: torch.device) -> None:
        self.event: torch.cuda.Event | None = None
        tensors = [torch.as_tensor(number, dtype=torch.float64) for number in numbers]
        if device.type != "cuda":
            self.buffer = torch.stack([number.detach().cpu() for number in tensors])
            return
        scalars = torch.stack([number.detach().to(device, non_blocking=True) for number in tensors])
        self.buffer = torch.empty(scalars.shape, dtype=scalars.dtype, pin_memory=True).copy_(scalars, non_blocking=True)
        self.event = torch.cuda.Event()
        self.event.record()

    def read(self) -> list[float]:
        """Wait for the copy, and return the numbers."""
        if self.event is not None:
            self.event.synchronize()
        numbers: list[float] = self.buffer.tolist()
        return numbers


@dataclass(frozen=True)
class StepResult:
    """The result of a training step whose numbers have not been read yet.

    Attributes:
        number: number of the step, counted from 1.
        outcome: five numbers: the loss summed over this process's tokens, the number of tokens of all processes (each
            counted with its loss weight), 1 if the step was skipped, the gradient norm, and the number of processes
            that were asked to stop.
        rows: row numbers of the step's examples.
        lr: learning rate.
    """

    number: int
    outcome: AsyncScalars
    rows: list[int]
    lr: float


class Optimizer(Protocol):
    """The interface of optimizers that the trainer uses.

    Attributes:
        state_name: name of the file or directory that `save` writes into a checkpoint.
    """

    state_name: str

    def loss(self, batch: Batch, images: torch.Tensor | None, *more: torch.Tensor | None) -> torch.Tensor:
        """Return the module's loss of one batch; all arguments are passed on to the module."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context manager in which the network can run although its weights have different dtypes."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Backpropagate a loss; gradients accumulate over the batches of a step."""
        ...

    def step(self, lr: float) -> OptimizerStep:
        """Update the parameters, after the last batch of the step."""
        ...

    def wait_for_params(self) -> None:
        """Wait for outstanding parameter transfers, so that the weights can be read; every process has to call it."""
        ...

    def save(self, folder: Path) -> None:
        """Write the optimizer's state into a directory; every process has to call it."""
        ...

    def load(self, folder: Path) -> None:
        """Restore the state that `save` wrote; every process has to call it."""
        ...


class PlainOptimizer:
    """AdamW with float32 parameters, for any dtype of the forward pass.

    Args:
        module: returns a loss.
        parameters: the parameters to train; they are converted to float32.
        settings: the settings.
        uses_autocast: whether the forward pass needs autocast, because trained float32 weights and frozen weights of
            another dtype occur in one operation.
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
        # The fused kernel checks for float16 overflow without waiting for the GPU, and replaces a dozen kernels.
        options: dict[str, Any] = {"weight_decay": settings.weight_decay, "fused": self.device.type == "cuda"}
        self.adam = torch.optim.AdamW(self.parameters, betas=BETAS, eps=EPSILON, **options)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.dtype == torch.float16)

    def loss(self, batch: Batch, images: torch.Tensor | None, *more: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of one batch."""
        with self.autocast():
            loss: torch.Tensor = self.module(batch, images, *more)
            return loss

    def autocast(self) -> AbstractContextManager[Any]:
        """Return torch's autocast if `uses_autocast`, else a context manager that does nothing."""
        return torch.autocast(self.device.type, self.settings.dtype) if self.uses_autocast else nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Backpropagate a loss, scaled for float16."""
        self.scaler.scale(loss).backward()

    def step(self, lr: float) -> OptimizerStep:
        """Clip the gradients, and update the parameters."""
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.scaler.unscale_(self.adam)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_grad or math.inf)
        self.scaler.step(self.adam)
        self.scaler.update()
        self.adam.zero_grad(set_to_none=True)
        # The scaler skips a step exactly if a gradient is inf or NaN, and so is the norm then.
        return OptimizerStep(~norm.isfinite() if self.scaler.is_enabled() else False, norm)

    def wait_for_params(self) -> None:
        """Do nothing: the parameters are never transferred."""

    def save(self, folder: Path) -> None:
        """Write the states of AdamW and scaler, and the float32 parameters, which a checkpoint may store in 16 bits."""
        state = {"adam": self.adam.state_dict(), "scaler": self.scaler.state_dict()}
        torch.save({**state, "parameters": [parameter.data for parameter in self.parameters]}, folder / STATE_NAME)

    def load(self, folder: Path) -> None:
        """Restore the state that `save` wrote."""
        state = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True)
        for parameter, kept in zip(self.parameters, state["parameters"], strict=True):
            parameter.data.copy_(kept)
        self.adam.load_state_dict(state["adam"])
        self.scaler.load_state_dict(state["scaler"])


def learning_rate_at(
    step: int, steps: int, peak: float, *, style: str, warmup: float, ratio: float, decay_steps: int | None
) -> float:
    """Return the learning rate of a step, counted from 0.

    Args:
        step: the step.
        steps: number of steps of the training.
        peak: the learning rate after warm-up.
        style: constant, linear, cosine or exponential.
        warmup: fraction of the steps in which the learning rate rises linearly.
        ratio: fraction of `peak` that the learning rate decays to.
        decay_steps: the step at which the decay ends; None for the last.
    """
    warmup_steps = math.ceil(warmup * steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if style == "constant":
        return peak
    progress = min(1.0, (step - warmup_steps) / max(1, (decay_steps or steps) - warmup_steps))
    if style == "exponential":
        return float(peak * ratio**progress)
    remaining = 1 - progress if style == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (ratio + (1 - ratio) * remaining)
