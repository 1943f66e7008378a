"""The language model's layers, one after the other, however its tokens attend.

    h = LN1(x);  a = h * alpha + Attention(h);  m = LN2(a);  x = m * alpha + MLP(m)        for each layer

The residual branch is the normalised value, scaled by alpha.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from .attention import Attend
from .cache import angle_table
from .network import Network, to_device
from .request import Request
from .weights import LayerWeights, find_weights


class Layers:
    """Walks the layers of a network by the names that every ChatGLM uses."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.weights = find_weights(network)
        self.heads = network.heads
        self.head_dim = self.weights.width // self.heads
        self.alpha = network.residual_scale
        positions = torch.arange(network.max_sequence_length + 2, device=network.device)
        self.angles = angle_table(network.rotary.angles(positions)).to(network.dtype)

    def __len__(self) -> int:
        return len(self.weights.layers)

    def walk(self, x: torch.Tensor, attend: Attend) -> Iterator[torch.Tensor]:
        """Yield x [N, D] after each layer."""
        for number, layer in enumerate(self.weights.layers):
            m = self._attend(layer, x, partial(attend, number))
            x = layer.to_h(layer.to_4h(m, gelu=True), residual=m, alpha=self.alpha)
            yield x

    def _attend(self, layer: LayerWeights, x: torch.Tensor, attend: "partial[torch.Tensor]") -> torch.Tensor:
        """Return m [N, D]. What leads to it is let go before the MLP, which takes the most memory."""
        h = layer.input_norm(x)
        context = attend(self._split(layer.query_key_value(h)))
        return layer.post_norm(layer.dense(context, residual=h, alpha=self.alpha))

    def run(self, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Return x [N, D] after the last layer."""
        return deque(self.walk(x, attend), maxlen=1)[0]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, V] after the last layer's x [N, D]."""
        return self.weights.lm_head(self.weights.final_norm(x)).float()

    def decode(self, tokens: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Return the logits [B, V] after one token [B] of each row."""
        return self.logits(self.run(self.network.embed_tokens(tokens), attend))

    def embed(self, requests: Sequence[Request]) -> list[torch.Tensor]:
        """Return the embedded prompt [T, D] of each request."""
        device = self.network.device
        return [
            self.network.embed(to_device(one.token_ids, device)[None], one.images, one.image_start)[0]
            for one in requests
        ]

    def _split(self, qkv: torch.Tensor) -> torch.Tensor:
        """View the outputs of query_key_value as [N, 3, H, head_dim]."""
        if self.network.qkv_by_head:
            return qkv.view(-1, self.heads, 3, self.head_dim).transpose(1, 2)
        return qkv.view(-1, 3, self.heads, self.head_dim)
