"""Points: named values of a forward pass, the same for both networks, and hooks that read or replace them."""

import fnmatch
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..engine.network import Network
from ..errors import SettingError

SUBLAYERS = ("attention", "cross_attention", "mlp")
# Reads the values [T, D] of a point in a forward pass over T tokens or patches; returns new ones, or None.
Change = Callable[[torch.Tensor], torch.Tensor | None]


@dataclass(frozen=True, eq=False)
class Point:
    """The output of a module, or its first input: [1, T, D] in a forward pass of T tokens or patches."""

    module: nn.Module
    is_input: bool = False

    def register(self, change: Change) -> RemovableHandle:
        """Apply a change to the values of this point, in the forward passes of this thread."""
        thread = threading.get_ident()

        def apply(values: torch.Tensor) -> torch.Tensor:
            changed = change(values[0]) if threading.get_ident() == thread else None
            return values if changed is None else changed[None].to(values)

        if self.is_input:
            return self.module.register_forward_pre_hook(lambda _, inputs: (apply(inputs[0]), *inputs[1:]))
        return self.module.register_forward_hook(lambda _, inputs, output: apply(output))


def find_points(network: Network) -> dict[str, Point]:
    """Return the points of a network by name, in the order of the computation."""
    encoder: Any = network.vision_encoder
    transformer = network.transformer
    # SAT computes the language model's layers without calling their modules. What a layer returns is read by one module
    # alone, the next layer norm.
    norms = [*(layer.input_layernorm for layer in transformer.layers), transformer.final_layernorm]
    inputs = [Point(norm, is_input=True) for norm in norms]
    return {
        **layer_points("vision", encoder.vit.transformer.layers),
        "vision.features": Point(encoder.vit.mixins["cls"].ln_vision),
        **layer_points("qformer", encoder.qformer.transformer.layers),
        "image_embeddings": Point(encoder.glm_proj),
        "embeddings": inputs[0],
        **layer_points("layers", transformer.layers, inputs[1:]),
        "logits": Point(network.lm_head),
    }


def layer_points(prefix: str, layers: Sequence[nn.Module], residuals: Sequence[Point] = ()) -> dict[str, Point]:
    """Return the points of a stack of layers: its sublayers, and the outputs of its layers, `residual`.

    Args:
        residuals: of the layers; empty if they are the outputs of the layers' modules.
    """
    points = {}
    for number, layer in enumerate(layers):
        for name in SUBLAYERS:
            if (sublayer := getattr(layer, name, None)) is not None:
                points[f"{prefix}.{number}.{name}"] = Point(sublayer)
        points[f"{prefix}.{number}.residual"] = residuals[number] if residuals else Point(layer)
    return points


def select_points(points: Mapping[str, Point], patterns: Sequence[str]) -> list[str]:
    """Return the names of the points that match patterns such as `layers.*.mlp`; all without patterns.

    Raises:
        SettingError: a pattern matches no point.
    """
    chosen = set[str]()
    for pattern in patterns or ("*",):
        found = fnmatch.filter(points, pattern)
        if not found:
            raise SettingError(f"No point is called {pattern}. `Workbench.points` lists the names.")
        chosen.update(found)
    return [name for name in points if name in chosen]


@contextmanager
def change_points(changes: Mapping[Point, Change]) -> Iterator[None]:
    """Context manager: apply a change to each point; the hooks are removed at the end, also after an exception."""
    handles = list[RemovableHandle]()
    try:
        for point, change in changes.items():
            handles.append(point.register(change))
        yield
    finally:
        for handle in handles:
            handle.remove()


class Trace(Mapping[str, torch.Tensor]):
    """The recorded outputs of points by name: [T, D], all forward passes joined.

    T counts the patches and the class token for `vision`, the queries for `qformer`, and for the other points the
    tokens of the prompt and of the answer.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.passes: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def add(self, name: str, output: torch.Tensor) -> None:
        """Append a copy of the output of a forward pass."""
        self.passes[name].append(output.detach().clone())

    def clear(self) -> None:
        """Delete the recorded values, before another answer."""
        for passes in self.passes.values():
            passes.clear()

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return the recorded outputs of a point."""
        return torch.cat(self.passes[name])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the points that were computed."""
        return (name for name, passes in self.passes.items() if passes)

    def __len__(self) -> int:
        """Return the number of points that were computed."""
        return sum(map(bool, self.passes.values()))
