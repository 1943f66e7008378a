"""Add LoRA to linear layers, under the names that SAT's fine-tunes use, and select the layers to adapt.

    original(x) + alpha / rank * cat_i(B_i A_i dropout(x))

The partitions i are q, k and v of a joint layer; each has its own matrices. B is initialized to zero, so that the
output does not change before training. Paper: https://arxiv.org/abs/2106.09685.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..aliases import FormerAttribute
from ..checkpoint.adapters import PARTITIONS, merge_weight
from ..errors import SettingError
from ..quantization.nf4 import Nf4Linear
from . import compat as sat_compat  # noqa: F401  (before sat)
from .low_rank import CastLoraWeights, FusedLoraFunction, autocast_enabled, has_hooks, is_frozen

# isort: split
from sat.model.base_model import BaseMixin

LLM, MLP, HEAD, QFORMER, VIT = "llm", "mlp", "head", "qformer", "vit"
LANGUAGE_LAYER = re.compile(r"transformer\.layers\.(\d+)\.")
TARGET_PATTERNS = {
    LLM: r"transformer\.layers\.\d+\.attention\.\w+",
    MLP: r"transformer\.layers\.\d+\.mlp\.\w+",
    HEAD: r"mixins\.chatglm-final\.lm_head",
    QFORMER: r"mixins\.eva\.model\.qformer\.transformer\.layers\.\d+\.(cross_)?attention\.\w+",
    VIT: r"mixins\.eva\.model\.vit\.transformer\.layers\.\d+\.attention\.\w+",
}
TARGETS = tuple(TARGET_PATTERNS)


def select_layers(network: nn.Module, targets: Sequence[str], layer_range: Iterable[int]) -> list[str]:
    """Return the names of the linear layers that LoRA adapts, in the order of `targets`.

    Args:
        network: a VisualGLM network of SAT.
        targets: see `match_names`.
        layer_range: indices of the language model's layers to adapt; it restricts no other part of the network.

    Raises:
        SettingError: a target or an index matches no layer, or none remains in `layer_range`.
    """
    indices = layer_indices(len(network.transformer.layers), layer_range)  # type: ignore[arg-type,union-attr]
    names = [name for name, _ in network.named_modules() if name.rpartition(".")[2] in PARTITIONS]
    matched = dict.fromkeys(name for target in targets for name in match_names(target, names))
    selected = [name for name in matched if is_in_range(name, indices)]
    if not selected:
        raise SettingError(
            f"LoRA adapts nothing: layer_range excludes every layer of the targets {', '.join(targets) or '(none)'}. "
            "It lists indices of the language model's layers; leave it out to adapt all."
        )
    return selected


def match_names(target: str, names: Sequence[str]) -> list[str]:
    """Return the names that a target selects.

    Args:
        target: a key of TARGET_PATTERNS; or the full name of a layer; or, as in PEFT, the last components
            of names ("query_key_value") or a regular expression that matches full names.

    Raises:
        SettingError: the target matches no name.
    """
    if target in names:
        return [target]
    try:
        pattern = re.compile(TARGET_PATTERNS.get(target, target))
    except re.error as error:
        raise SettingError(f"The LoRA target {target!r} is not a valid regular expression: {error}.") from error
    matched = [name for name in names if name.endswith(f".{target}") or pattern.fullmatch(name)]
    if not matched:
        raise SettingError(
            f"The LoRA target {target!r} matches no linear layer. Give {', '.join(TARGETS)}, or the last part of "
            f"a layer's name ({', '.join(PARTITIONS)}), or a regular expression for full names, "
            f"such as {TARGET_PATTERNS[LLM]}."
        )
    return matched


def layer_indices(count: int, layer_range: Iterable[int]) -> set[int]:
    """Return the indices in `layer_range` as non-negative ones: negative indices count from the end of `count`."""
    try:
        return {range(count)[index] for index in layer_range}
    except IndexError:
        raise SettingError(
            f"layer_range is {list(layer_range)}, but the language model has layers 0 to {count - 1}. It lists layer "
            "indices and is not a range; leave it out to adapt all."
        ) from None


def is_in_range(name: str, indices: set[int]) -> bool:
    """Return whether a module is in one of the language model's layers `indices`, or outside of its layers."""
    layer = LANGUAGE_LAYER.match(name)
    return layer is None or int(layer[1]) in indices


class LoraLinear(nn.Module):
    """A linear layer [.., in] -> [.., out] with a LoRA branch.

    Args:
        original: the unchanged layer, with `weight` [out, in].
        partitions: number of equal partitions of its outputs.
        rank: rank of the matrices of each partition.
        alpha: LoRA is scaled by alpha / rank.
        dropout: dropout probability on the LoRA input.

    Attributes:
        enabled: False leaves out LoRA: the layer returns what `original` does.
    """

    is_on = FormerAttribute("enabled")

    def __init__(
        self, original: nn.Module, partitions: int, rank: int, alpha: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        weight: Any = original.weight
        out_size, in_size = weight.shape
        # For a model on the meta device, the matrices are created on the CPU: they are moved with the model later.
        device = "cpu" if weight.is_meta else weight.device
        made: dict[str, Any] = {"dtype": weight.dtype, "device": device}
        self.original = original  # checkpoint key
        bound = in_size**-0.5  # SAT's distribution, by functions that also draw in a model built on the meta device
        self.matrix_A = nn.ParameterList(  # checkpoint key
            (2 * torch.rand(rank, in_size, **made) - 1) * bound for _ in range(partitions)
        )
        self.matrix_B = nn.ParameterList(  # checkpoint key
            torch.zeros(out_size // partitions, rank, **made) for _ in range(partitions)
        )
        self.dropout = nn.Dropout(dropout)
        self.scaling = alpha / rank
        self.enabled = True

    @property
    def can_fuse(self) -> bool:
        """Whether `fused_forward` may replace a call: LoRA is enabled, the weight frozen, and nothing sharded."""
        return self.enabled and is_frozen(self.original) and not hasattr(self.lora_weights[0][0], "ds_id")

    @property
    def lora_weights(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """All matrices A [r, in], and all matrices B [out / partitions, r]."""
        # Iterating over an nn.ParameterList takes ten times as long.
        lora_a, lora_b = (list(matrices._parameters.values()) for matrices in (self.matrix_A, self.matrix_B))
        return lora_a, lora_b  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor
        if not self.enabled:
            product = self.original(x)
        elif self.can_fuse and not autocast_enabled(x.device.type):
            lora_a, lora_b = self.lora_weights
            product = self.fused_forward(x, torch.cat(lora_a).to(x.dtype), torch.stack(lora_b).to(x.dtype))
        else:
            # ZeRO-3 gathers each matrix when it is accessed, so they are accessed one by one.
            pairs, dropped_x = zip(self.matrix_A, self.matrix_B, strict=True), self.dropout(x)
            added = torch.cat([dropped_x @ a.to(x.dtype).t() @ b.to(x.dtype).t() for a, b in pairs], dim=-1)
            product = torch.add(self.original(x), added, alpha=self.scaling)
        return product

    def fused_forward(self, x: torch.Tensor, lora_a: torch.Tensor, lora_b: torch.Tensor) -> torch.Tensor:
        """Return the layer's output for x, with these matrices in the dtype of x: see `FusedLoraFunction`."""
        dropout = self.dropout
        dropped_x = dropout(x) if dropout.training and dropout.p > 0 else None
        product: torch.Tensor = FusedLoraFunction.apply(x, dropped_x, lora_a, lora_b, self.original, self.scaling)
        return product

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Return the original layer with LoRA merged into its weight; a 4-bit layer is dequantized first."""
        plain = self.original.dequantized() if isinstance(self.original, Nf4Linear) else self.original
        weight = plain.get_parameter("weight")
        weight.copy_(merge_weight(weight, *self.lora_weights, self.scaling))
        return plain


LoraWeights = dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]


def cast_lora_weights(modules: Iterable[nn.Module], dtype: torch.dtype) -> LoraWeights:
    """Return the LoRA matrices of each LoraLinear in `modules` for its `fused_forward`, cast in one operation.

    Layers with hooks, with sharded weights, or with LoRA disabled are left out.
    """
    layers = [layer for layer in modules if isinstance(layer, LoraLinear) and layer.can_fuse and not has_hooks(layer)]
    if not layers:
        return {}
    lora_weights = [matrix for layer in layers for matrices in layer.lora_weights for matrix in matrices]
    cast = CastLoraWeights.apply(dtype, [len(layer.matrix_A) for layer in layers], *lora_weights)
    return dict(zip(layers, zip(cast[::2], cast[1::2], strict=True), strict=True))


class LoraMixin(BaseMixin):
    """Adds LoRA to the linear layers that match some patterns, and can merge it into their weights.

    Args:
        layer_num: number of the language model's layers.
        r, lora_alpha, lora_dropout: rank, alpha and dropout of `LoraLinear`.
        layer_range: indices of the language model's layers to adapt (not a range); None for all.
        targets: patterns of module names, see `match_names`, or keys of TARGET_PATTERNS: the attention (llm), the MLP
            (mlp) and the output head of the language model, the last to raise the probability of tokens that the base
            model never generates; the attention of the Q-Former (qformer) and of the ViT (vit), in all their layers.
    """

    def __init__(
        self,
        layer_num: int,
        r: int,
        lora_alpha: float = 1.0,
        lora_dropout: float = 0.0,
        layer_range: Sequence[int] | None = None,
        targets: str | Sequence[str] = (LLM,),
    ) -> None:
        super().__init__()
        self.layer_range = list(range(layer_num)) if layer_range is None else list(layer_range)
        self.targets = (targets,) if isinstance(targets, str) else tuple(targets)
        self.options: dict[str, Any] = {"rank": r, "alpha": lora_alpha, "dropout": lora_dropout}
        self.adapted: list[tuple[nn.Module, str]] = []

    def reinit(self, parent_model: Any = None) -> None:  # SAT calls it
        """Wrap the selected layers of `parent_model`.

        Raises:
            SettingError: see `select_layers`.
        """
        for path in select_layers(parent_model, self.targets, self.layer_range):
            parent, _, name = path.rpartition(".")
            owner, original = parent_model.get_submodule(parent), parent_model.get_submodule(path)
            if not isinstance(original, LoraLinear):
                setattr(owner, name, LoraLinear(original, PARTITIONS[name], **self.options))
                self.adapted.append((owner, name))

    def merge_lora(self) -> None:  # public name
        """Merge LoRA into the weights and remove it."""
        for owner, name in self.adapted:
            setattr(owner, name, getattr(owner, name).merged())
        self.adapted.clear()


def set_dropout(network: nn.Module, is_active: bool) -> None:
    """Switch LoRA dropout on or off."""
    for module in network.modules():
        if isinstance(module, LoraLinear):
            module.dropout.train(is_active)


def has_dropout(network: nn.Module) -> bool:
    """Return whether any LoRA dropout is active, so that a forward pass draws random numbers."""
    drops = (module.dropout for module in network.modules() if isinstance(module, LoraLinear))
    return any(drop.training and drop.p > 0 for drop in drops)
