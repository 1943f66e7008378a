"""One training step, captured as a CUDA graph on a GPU.

The network is so small that the GPU would wait for Python between kernels: a replayed graph makes a step several times
faster (https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

import torch
from torch import nn

from model.kernels.torch_ops import exclusive_capture
from tiny.training.data import Batch
from tiny.training.network import Losses, TrainingModel

# Loss weights of the first stage, and of the second, whose newly initialized heads would be useless at first.
LOSS_WEIGHTS = {"answer": 1.0, "map": 0.5, "places": 8.0, "look": 0.2, "state": 0.0}
SECOND_STAGE_LOSS_WEIGHTS = {"answer": 1.0, "map": 0.0, "places": 0.0, "look": 0.3, "state": 0.1}
BETAS, WEIGHT_DECAY, MAX_GRADIENT_NORM = (0.9, 0.98), 0.05, 1.0
WARM_UP_STEPS = 3  # steps before capture, in which libraries allocate memory and choose kernels


def make_optimizer(model: nn.Module, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, not on biases and norms.

    The learning rate is a tensor on the device, which a captured graph reads.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    on_gpu = device.type == "cuda"
    rate = torch.tensor(0.0, device=device)
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True, capturable=on_gpu)


class TrainingStep:
    """Runs one training step per call.

    Args:
        model: the model to train.
        optimizer: from `make_optimizer`.
        device: device of the model.
        weights: loss weights by name.

    Attributes:
        losses: losses of the last step, on the device.
        norm: gradient norm of the last step, before clipping.
    """

    def __init__(
        self, model: TrainingModel, optimizer: torch.optim.Optimizer, device: torch.device, weights: dict[str, float]
    ) -> None:
        self.model = model
        self.weights = weights
        self.optimizer = optimizer
        self.device = device
        self.calls = 0
        self.batch: Batch | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.losses: Losses
        self.norm: torch.Tensor

    def __call__(self, batch: Batch, rate: float) -> None:
        """Train on a batch with this learning rate; all batches must have the same shapes."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)
        self._copy_batch(batch)
        self.calls += 1
        if self.device.type != "cuda":
            self._train_step()
        elif self.calls <= WARM_UP_STEPS:
            self._train_step_on_side_stream()
        else:
            self.graph = self.graph or self._capture()
            self.graph.replay()

    def report(self) -> dict[str, float]:
        """Return the losses and the gradient norm of the last step, by name."""
        return {name: value.item() for name, value in {**self.losses._asdict(), "norm": self.norm}.items()}

    def _copy_batch(self, batch: Batch) -> None:
        """Copy a batch into the static input buffers of the graph."""
        if self.batch is None:
            self.batch = batch.to(self.device)
            return
        for mine, given in zip(self.batch.tensors(), batch.tensors(), strict=True):
            mine.copy_(given, non_blocking=True)

    def _train_step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            losses: Losses = self.model(self.batch)
        torch.stack([self.weights[name] * loss for name, loss in losses._asdict().items()]).sum().backward()
        self.norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.losses = Losses(*(loss.detach() for loss in losses))

    def _train_step_on_side_stream(self) -> None:
        """Run a step on a side stream, as required before capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._train_step()
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread allocates pinned memory meanwhile, which must not invalidate this capture.
        with exclusive_capture(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._train_step()
        return graph
