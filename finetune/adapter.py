"""What LoRA or P-tuning has added to a network, which can be put aside for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model.sat.lora import LoraLinear
from model.sat.ptuning import PrefixMixin


class Adapter:
    """All that was added to a network.

    Args:
        network: a VisualGLMModel; what is added to it later is not known here.

    Attributes:
        looks: whether something was added to what looks at pictures.
    """

    def __init__(self, network: Any) -> None:
        self.parts = [part for part in network.modules() if isinstance(part, LoraLinear | PrefixMixin)]
        self.looks = any(isinstance(part, LoraLinear) for part in network.image_part.modules())

    @contextmanager
    def away(self) -> Iterator[None]:
        """Have the network compute as its base does in a block, whose way back must not go beyond it."""
        self._turn(False)
        try:
            yield
        finally:
            self._turn(True)

    def _turn(self, is_on: bool) -> None:
        for part in self.parts:
            part.is_on = is_on
