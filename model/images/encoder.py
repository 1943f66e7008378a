"""The image part without the cost of starting its thousand kernels one by one."""

import warnings
from typing import Any

import torch

from ..engine.graphs import Graphs

# A graph is recorded for each of these numbers of pictures; fewer are padded.
COUNTS = (1, 4, 16)


class ImageEncoder:
    """Encodes pictures on a GPU by CUDA graphs, elsewhere by the network as it is. Not for several threads at once.

    Args:
        network: has `image_part`, `image_size` and `encode_image`.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.graphs = Graphs()
        self.mark: int | None = None
        self.run = self._run_graph
        self.pixels = self.embeddings = torch.empty(0)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S], B at most 16; they hold until the next call."""
        if self.network.device.type != "cuda":
            return self.network.encode_image(pixels)  # type: ignore[no-any-return]
        self._settle()
        count = next(count for count in COUNTS if count >= len(pixels))
        self.pixels[: len(pixels)] = pixels
        self.run(count)
        return self.embeddings[: len(pixels)]

    def _run_graph(self, count: int) -> None:
        try:
            self.graphs.run(count, lambda: self._run(count))
        except RuntimeError as error:
            warnings.warn(f"The image part cannot be recorded as a CUDA graph, so it is slower: {error}", stacklevel=2)
            self.run = self._run
            self.run(count)

    def _run(self, count: int) -> None:
        rows = self.network.encode_image(self.pixels[:count])
        if not len(self.embeddings):
            self.embeddings = rows.new_zeros(COUNTS[-1], *rows.shape[1:])
        self.embeddings[:count] = rows

    def _settle(self) -> None:
        """Prepare places for what goes in and out, anew when the weights have moved; the first tells of all."""
        mark = next(self.network.image_part.parameters()).data_ptr()
        if mark == self.mark:
            return
        self.graphs.forget()
        size, device, dtype = self.network.image_size, self.network.device, self.network.dtype
        self.pixels = torch.zeros(COUNTS[-1], 3, size, size, device=device, dtype=dtype)
        self.embeddings = torch.empty(0)
        self.mark = mark
