"""Compute the log-probabilities of given answers in one pass over complete sequences; differentiable.

A pass by the network's modules takes the host longer than a GPU: their hooks run between the kernels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..kernels.torch_ops import apply_rotary, positions_2d, prefix_mask
from .cuda_graph import round_up
from .layers import Attend, Layers
from .network import Network, prefix_length

INDEX_FIELDS = 2  # numbers of a GivenAnswer that are no lists
MAX_LOGIT_ROWS = 128  # rows whose logits are computed at once: 67 MB in float32 at full size


class GivenAnswer(NamedTuple):
    """A prompt and its answer on the device, both padded at the end.

    Attributes:
        context: int64 [1], context length, which is the number of tokens before <sop>.
        image_start: int64 [1], index of the first image token.
        ids: int64 [T], token ids of prompt and answer.
        targets: int64 [N], indices of the answer's tokens in `ids`; 0 for padding.
    """

    context: torch.Tensor
    image_start: torch.Tensor
    ids: torch.Tensor
    targets: torch.Tensor


class AnswerNumbers(NamedTuple):
    """The numbers of a GivenAnswer in one list on the host, for one copy to the device.

    Attributes:
        num_ids, num_targets: T and N.
        values: INDEX_FIELDS + T + N numbers.
    """

    num_ids: int
    num_targets: int
    values: list[int]

    @classmethod
    def pack(cls, prompt_ids: Sequence[int], image_start: int, answer_ids: Sequence[int], step: int) -> "AnswerNumbers":
        """Pack a prompt and its answer, padded to multiples of `step`."""
        total = len(prompt_ids) + len(answer_ids)
        num_ids, num_targets = round_up(total, step), round_up(len(answer_ids), step)
        ids = [*prompt_ids, *answer_ids, *[0] * (num_ids - total)]
        targets = [*range(len(prompt_ids), total), *[0] * (num_targets - len(answer_ids))]
        return cls(num_ids, num_targets, [len(prompt_ids) - 1, image_start, *ids, *targets])

    def view(self, tensor: torch.Tensor) -> GivenAnswer:
        """Return views of the numbers in a tensor that begins with `values`."""
        return GivenAnswer(*tensor[: len(self.values)].split([1, 1, self.num_ids, self.num_targets]))


class TeacherForcing:
    """The language model as a function of image embeddings and a given answer.

    Args:
        network: a network without hooks that change its forward pass, see `network.has_foreign_hooks`. Its weights are
            used in place.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layers = Layers(network)
        self.prefix = network.prefix
        self.prefix_length = prefix_length(network)

    def score(self, images: torch.Tensor, answer: GivenAnswer) -> torch.Tensor:
        """Return the log-probabilities of an answer's tokens, float32 [B, N], 0 for padding, for images [B, L, D]."""
        batch, length = len(images), len(answer.ids)
        embedded = self._embed(images, answer).flatten(0, 1)
        x = self.layers.run(embedded, self._make_attention(batch, answer)).view(batch, length, -1)
        before = x[:, answer.targets.sub(1).clamp(min=0)].flatten(0, 1).split(MAX_LOGIT_ROWS)
        wanted = answer.ids[answer.targets].repeat(batch).split(MAX_LOGIT_ROWS)
        logprobs = torch.cat(list(map(self._score_rows, before, wanted))).view(batch, -1)
        return logprobs.where(answer.targets > 0, 0.0)

    def _score_rows(self, x: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [N] of tokens [N] for x [N, D], the hidden states before them."""
        logprobs = F.log_softmax(self.layers.logits(x).float(), dim=-1)
        return logprobs.gather(1, token_ids[:, None])[:, 0]

    def _embed(self, images: torch.Tensor, answer: GivenAnswer) -> torch.Tensor:
        """Return the embedded sequences [B, T, D]."""
        embedded, last = self.network.embed_tokens(answer.ids), images.shape[1] - 1
        index = torch.arange(len(answer.ids), device=images.device) - answer.image_start
        return embedded.where(((index < 0) | (index > last))[:, None], images[:, index.clamp(0, last)])

    def _make_attention(self, batch: int, answer: GivenAnswer) -> Attend:
        """Return the attention function of `batch` sequences."""
        length = len(answer.ids)
        index = torch.arange(length, device=answer.ids.device)
        visible = F.pad(prefix_mask(index, answer.context), (self.prefix_length, 0), value=True)
        mask = torch.zeros_like(visible, dtype=self.network.dtype).masked_fill_(~visible, -torch.inf)
        positions = positions_2d(index, answer.context)
        cos, sin = self.layers.cos_sin_table[:, positions.t()].flatten(-2)[:, :, None, None]  # each [T, 1, 1, head_dim]

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            by_sequence = qkv.unflatten(0, (batch, length))
            query, key = apply_rotary(by_sequence[:, :, :2], cos, sin).permute(2, 0, 3, 1, 4)
            value = by_sequence[:, :, 2].transpose(1, 2)
            if self.prefix_length:
                prefix = self.prefix[layer].to(key.dtype)[:, None].expand(-1, batch, -1, -1, -1)
                key, value = torch.cat((prefix[0], key), dim=2), torch.cat((prefix[1], value), dim=2)
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            return context.transpose(1, 2).reshape(batch * length, -1)

        return attend
