"""One step of training, recorded as a CUDA graph where there is a GPU.

The network is so small that a GPU would wait for Python between its kernels: recorded once and replayed, the same
step is several times faster (https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

import torch
from torch import nn

from model.kernels.torch_ops import exclusive_capture
from tiny.training.data import Batch
from tiny.training.network import Losses, TrainingModel

# Of the losses in their sum: from nothing, and from a trained model, which new heads could first teach nothing.
LOSS_WEIGHTS = {"answer": 1.0, "map": 0.5, "places": 8.0, "look": 0.2, "state": 0.0}
SECOND_STAGE_LOSS_WEIGHTS = {"answer": 1.0, "map": 0.0, "places": 0.0, "look": 0.3, "state": 0.1}
BETAS, WEIGHT_DECAY, MAX_GRADIENT_NORM = (0.9, 0.98), 0.05, 1.0
WARM_UP_STEPS = 3  # steps before recording, in which libraries allocate and choose kernels


def make_optimizer(model: nn.Module, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW that decays matrices, neither biases nor norms, with a rate that a graph reads from the device."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    on_gpu = device.type == "cuda"
    rate = torch.tensor(0.0, device=device)
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True, capturable=on_gpu)


class TrainingStep:
    """Makes one step at each call.

    Args:
        trainee: to train.
        optimizer: of `make_optimizer`.
        device: that it is on.
        weights: of the losses in their sum.

    Attributes:
        losses: of the last step, on the device.
        norm: the length of its gradient, before it was clipped.
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
        """Train on a batch, whose shapes are those of the batches before, with that learning rate."""
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
        """Return the losses of the last step and the norm of its gradient, by name."""
        return {name: value.item() for name, value in {**self.losses._asdict(), "norm": self.norm}.items()}

    def _copy_batch(self, batch: Batch) -> None:
        """Put a batch where the graph reads it."""
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
        """Compute on another stream, as recording does."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._train_step()
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # The loader's own thread allocates pinned memory meanwhile, which is no business of this recording.
        with exclusive_capture(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._train_step()
        return graph
