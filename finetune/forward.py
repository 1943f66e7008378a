"""A batch -> its loss: the final states, and a head that looks at the answers alone.

What is learned counts by the likelihood of its tokens. What is remembered holds the network to its base, and counts by
how far the chances of each token are from those that the base gives it, seeing the same pictures: learning without
forgetting, https://arxiv.org/abs/1606.09282.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from model.engine.network import to_device

from .adapter import Adapter
from .batches import Batch, select, show
from .divergence import sum_divergences
from .encoding import NO_LOSS
from .head import sum_losses
from .states import final_states, has_changed_layers, logits_by_sat


class AnswerLoss(nn.Module):
    """The loss of a batch's answers under a network, as a module that deepspeed can wrap.

    Args:
        network: a VisualGLMModel.
        checkpoint_activations: compute the layers again on the way back instead of keeping what they computed.
        always_looks: compute the embedding of a blank picture for a batch without any, and the base's states where
            nothing is remembered, since ZeRO 3 wants every process to use the same weights in each pass, and back.
    """

    def __init__(self, network: Any, checkpoint_activations: bool = False, always_looks: bool = False) -> None:
        super().__init__()
        self.network = network
        self.adapter = Adapter(network)
        self.always_looks = always_looks
        self.checkpoint_activations = checkpoint_activations

    def forward(
        self,
        batch: Batch,
        images: torch.Tensor | None,
        weights: torch.Tensor | None = None,
        held: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the sum over the batch's answer tokens, in float32.

        Args:
            images: embeddings [P, L, D] of the batch's pictures; None to compute them from its pixels.
            weights: [B], what each example's tokens count; None for 1 each.
            held: bool [B], True where an example holds the network to its base; None where there are never any.
        """
        places = answer_places(batch.labels)
        if held is not None:  # those come last
            places = places[held[places // batch.labels.shape[1]].argsort(stable=True)]
        counts = torch.ones(len(places)) if weights is None else weights[places // batch.labels.shape[1]]
        targets = batch.labels.flatten()[places + 1]
        images = self.look(batch) if images is None else images
        told = None if held is None else self.told_by_base(batch, images, held)
        places, targets, counts = (to_device(tensor, self.network.device) for tensor in (places, targets, counts))
        said = self.said(batch, images, places)
        learned = len(said) - (0 if told is None else len(told))
        head = nn.Identity() if has_changed_layers(self.network) else self.network.lm_head
        loss = sum_losses(head, said[:learned], targets[:learned], counts[:learned])
        return loss if told is None else loss + sum_divergences(head, said[learned:], told, counts[learned:])

    @torch.no_grad()
    def told_by_base(self, batch: Batch, images: torch.Tensor | None, held: torch.Tensor) -> torch.Tensor | None:
        """Return what the base's head is given [N, D] for the answers of the held examples; None where it is not asked.

        Args:
            images: what the network sees; the base sees the same, unless what looks at pictures is trained.
        """
        rows = held.nonzero().flatten().tolist()
        if not rows and not self.always_looks:
            return None
        part = select(batch, rows or [0])
        with self.adapter.away():
            if self.adapter.looks:
                part = show(part, part.pixels, part.pictures)
                images = self.look(part)
            places = answer_places(part.labels)[: None if rows else 0]
            return self.said(part, images, to_device(places, self.network.device))

    def said(self, batch: Batch, images: torch.Tensor | None, places: torch.Tensor) -> torch.Tensor:
        """Return what the head is given [N, D] at places of the batch laid out flat; of SAT's own pass the logits."""
        if has_changed_layers(self.network):
            states = logits_by_sat(self.network, batch, images)
        else:
            states = final_states(self.network, batch, images, self.checkpoint_activations)
        # On the way back this adds rows, where an index in brackets would sort them first.
        return states.flatten(0, 1).index_select(0, places)

    def look(self, batch: Batch) -> torch.Tensor | None:
        """Return the embeddings [P, L, D] of a batch's pictures; None, or that of a blank one, where it has none."""
        pixels, device = batch.pixels, self.network.device
        if pixels is None and self.always_looks:
            pixels = torch.zeros(1, 3, *[self.network.image_size] * 2)
        return None if pixels is None else self.network.encode_image(to_device(pixels, device))


def answer_places(labels: torch.Tensor) -> torch.Tensor:
    """Return the places, in labels [B, T] laid out flat, whose states should predict the label after them."""
    learned = F.pad(labels[:, 1:] != NO_LOSS, (0, 1))
    return learned.flatten().nonzero().squeeze(1)
