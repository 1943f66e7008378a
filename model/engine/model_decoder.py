"""Decoding through the whole model, for a network whose forward pass a mixin or a torch hook has changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .cache import answer_positions
from .decoder import Prefill
from .network import Network
from .request import Request


def prompt_mask(length: int, device: torch.device) -> torch.Tensor:
    """Return [length, length], True where a row sees a column: all but <sop>, the last, which only it sees."""
    visible = torch.ones(length, length, dtype=torch.bool, device=device)
    visible[:-1, -1] = False
    return visible


@dataclass
class Past:
    """One row: what the model returned for its tokens, and how many there are."""

    layers: list[Any]
    prompt_length: int
    length: int


class ModelDecoder:
    """Calls the model's own forward pass, hooks and all, row by row, and keeps the keys and values that it returns."""

    is_static = False

    def __init__(self, network: Network) -> None:
        self.network = network
        self.rows: list[Past] = []

    def prefill(self, first: int, requests: Sequence[Request]) -> Prefill:
        """Begin the rows from `first` on with prompts."""
        logits = []
        for row, request in enumerate(requests, start=first):
            logits.append(self._read(row, request))
            yield
        return torch.cat(logits)

    def decode(self, tokens: torch.Tensor, longest: int) -> torch.Tensor:
        """Add one token [B] to each of the first B rows."""
        return torch.cat([self._decode_row(past, token) for past, token in zip(self.rows, tokens, strict=False)])

    def move(self, source: int, target: int, length: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.rows[target] = self.rows[source]

    def free(self, row: int) -> None:
        """Forget a row that is not in use."""
        self.rows[row] = Past([], 0, 0)

    def clear(self, row: int) -> None:
        """Nothing to do: rows share nothing."""

    def grow(self, rows: int, room: int) -> None:
        """Make room for so many rows; their tokens take what they need."""
        self.rows += [Past([], 0, 0)] * (rows - len(self.rows))

    def counters(self) -> list[torch.Tensor]:
        """Nothing is counted on the device."""
        return []

    def _read(self, row: int, request: Request) -> torch.Tensor:
        device, length = self.network.device, len(request.token_ids)
        positions = answer_positions(length, length, device)
        mask = prompt_mask(length, device)[None, None].to(self.network.dtype)
        picture = {}
        if request.images is not None:
            picture = {"image_embeddings": request.images, "pre_image": request.image_start}
        self.rows[row] = Past([], length, 0)
        return self._forward(
            self.rows[row], torch.tensor([request.token_ids], device=device), positions, mask, **picture
        )

    def _decode_row(self, past: Past, token: torch.Tensor) -> torch.Tensor:
        positions = torch.tensor(
            [[past.prompt_length - 2], [past.length - past.prompt_length + 2]], device=token.device
        )
        mask = torch.ones(1, 1, device=token.device)
        return self._forward(past, token.view(1, 1), positions, mask, past_key_values=past.layers)

    def _forward(
        self, past: Past, token_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        logits, *layers = self.network(input_ids=token_ids, position_ids=positions[None], attention_mask=mask, **kwargs)
        past.layers = [layer["past_key_values"] for layer in layers]
        past.length += token_ids.shape[1]
        return logits[:, -1].float()  # type: ignore[no-any-return]
