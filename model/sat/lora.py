"""Add LoRA to linear layers, under the names that SAT's fine-tunes have, and choose which layers it adapts.

    original(x) + alpha / rank * cat_i(B_i A_i dropout(x))

The parts i are q, k and v of a joint layer, each with matrices of its own. B starts at zero, so that nothing changes
before training. Paper: https://arxiv.org/abs/2106.09685.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..checkpoint.adapters import merged_weight
from ..errors import SettingError
from ..quantization.nf4 import Nf4Linear
from . import compat as sat_compat  # noqa: F401  (before sat)
from .low_rank import FactorCopies, LowRankProduct, is_frozen, is_mixing, is_watched

# isort: split
from sat.model.base_model import BaseMixin

LLM, MLP, HEAD, QFORMER, VIT = "llm", "mlp", "head", "qformer", "vit"
# The linear layers that can be adapted, and of how many parts each is made.
PARTS = {
    "query_key_value": 3,
    "key_value": 2,
    "query": 1,
    "dense": 1,
    "dense_h_to_4h": 1,
    "dense_4h_to_h": 1,
    "lm_head": 1,
}
LANGUAGE_LAYER = re.compile(r"transformer\.layers\.(\d+)\.")
ALIASES = {
    LLM: r"transformer\.layers\.\d+\.attention\.\w+",
    MLP: r"transformer\.layers\.\d+\.mlp\.\w+",
    HEAD: r"mixins\.chatglm-final\.lm_head",
    QFORMER: r"mixins\.eva\.model\.qformer\.transformer\.layers\.\d+\.(cross_)?attention\.\w+",
    VIT: r"mixins\.eva\.model\.vit\.transformer\.layers\.\d+\.attention\.\w+",
}
TARGETS = tuple(ALIASES)


def select_layers(network: nn.Module, targets: Sequence[str], layer_range: Iterable[int]) -> list[str]:
    """Return the names of the linear layers that LoRA adapts, in the order of `targets`.

    Args:
        network: a VisualGLM network of SAT.
        targets: see `match_names`.
        layer_range: indices of the language model's layers to adapt; the other parts of the network do without.

    Raises:
        SettingError: a target or an index matches no layer, or none remains in `layer_range`.
    """
    numbers = layer_numbers(len(network.transformer.layers), layer_range)  # type: ignore[arg-type,union-attr]
    names = [name for name, _ in network.named_modules() if name.rpartition(".")[2] in PARTS]
    matched = dict.fromkeys(name for target in targets for name in match_names(target, names))
    selected = [name for name in matched if is_in_range(name, numbers)]
    if not selected:
        raise SettingError(
            f"LoRA adapts nothing: no layer of the targets {', '.join(targets) or '(none)'} is left by layer_range. "
            "It lists layers of the language model; leave it out for all."
        )
    return selected


def match_names(target: str, names: Sequence[str]) -> list[str]:
    """Return those of `names` that a target selects.

    Args:
        target: an alias; or the full name of a layer; or, as in PEFT, the end of names ("query_key_value") or a regular
            expression that matches names as a whole.

    Raises:
        SettingError: there are none.
    """
    if target in names:
        return [target]
    try:
        pattern = re.compile(ALIASES.get(target, target))
    except re.error as error:
        raise SettingError(f"The LoRA target {target!r} is no valid regular expression: {error}.") from error
    matched = [name for name in names if name.endswith(f".{target}") or pattern.fullmatch(name)]
    if not matched:
        raise SettingError(
            f"The LoRA target {target!r} matches no linear layer. Give {', '.join(TARGETS)}, or the end of a layer's "
            f"name ({', '.join(PARTS)}), or a regular expression for whole names, such as {ALIASES[LLM]}."
        )
    return matched


def layer_numbers(count: int, layer_range: Iterable[int]) -> set[int]:
    """Return the indices in `layer_range` of `count` layers, negative ones counted from the end."""
    try:
        return {range(count)[number] for number in layer_range}
    except IndexError:
        raise SettingError(
            f"layer_range is {list(layer_range)}, but the language model has layers 0 to {count - 1}. It lists layers, "
            "it is no range: leave it out for all."
        ) from None


def is_in_range(name: str, numbers: set[int]) -> bool:
    """Whether a layer lies in one of the language model's layers `numbers`, or in another part of the network."""
    layer = LANGUAGE_LAYER.match(name)
    return layer is None or int(layer[1]) in numbers


class LoraLinear(nn.Module):
    """A linear layer [.., in] -> [.., out] with LoRA beside it.

    Args:
        original: the layer, which is kept as it is; it has `weight` [out, in].
        parts: into how many equal shares its outputs divide.
        rank: of each part's matrices.
        alpha: scale, divided by the rank.
        dropout: share of the inputs that training hides from LoRA.

    Attributes:
        is_on: False has it compute what the layer does without LoRA.
    """

    def __init__(self, original: nn.Module, parts: int, rank: int, alpha: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        weight: Any = original.weight
        out_size, in_size = weight.shape
        device = "cpu" if weight.is_meta else weight.device  # built empty, the model is moved when it is whole
        made: dict[str, Any] = {"dtype": weight.dtype, "device": device}
        self.original = original  # checkpoint key
        bound = in_size**-0.5  # as SAT draws it, but by functions that have data in a model that is built empty
        self.matrix_A = nn.ParameterList(  # checkpoint key
            (2 * torch.rand(rank, in_size, **made) - 1) * bound for _ in range(parts)
        )
        self.matrix_B = nn.ParameterList(  # checkpoint key
            torch.zeros(out_size // parts, rank, **made) for _ in range(parts)
        )
        self.dropout = nn.Dropout(dropout)
        self.scaling = alpha / rank
        self.is_on = True

    @property
    def is_short(self) -> bool:
        """Whether `product` computes what a call of this layer does: its weight is frozen, and all of it lies here."""
        return self.is_on and is_frozen(self.original) and not hasattr(self.factors[0][0], "ds_id")

    @property
    def factors(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """All A [r, in] and all B [out / parts, r]."""
        # Not by their lists' own ways, which take ten times as long.
        downs, ups = (list(held._parameters.values()) for held in (self.matrix_A, self.matrix_B))
        return downs, ups  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor
        if not self.is_on:
            product = self.original(x)
        elif self.is_short and not is_mixing(x.device.type):
            downs, ups = self.factors
            product = self.product(x, torch.cat(downs).to(x.dtype), torch.stack(ups).to(x.dtype))
        else:
            # Asked for one by one, which is when ZeRO 3 collects them.
            pairs, seen = zip(self.matrix_A, self.matrix_B, strict=True), self.dropout(x)
            added = torch.cat([seen @ down.to(x.dtype).t() @ up.to(x.dtype).t() for down, up in pairs], dim=-1)
            product = torch.add(self.original(x), added, alpha=self.scaling)
        return product

    def product(self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return what the layer makes of x, with these factors in x's dtype: see `LowRankProduct`."""
        dropout = self.dropout
        seen = dropout(x) if dropout.training and dropout.p > 0 else None
        product: torch.Tensor = LowRankProduct.apply(x, seen, down, up, self.original, self.scaling)
        return product

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Return the original layer with LoRA summed into its weight; a 4-bit one becomes an ordinary one."""
        plain = self.original.dequantized() if isinstance(self.original, Nf4Linear) else self.original
        weight = plain.get_parameter("weight")
        weight.copy_(merged_weight(weight, *self.factors, self.scaling))
        return plain


Factors = dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]


def copy_factors(modules: Iterable[nn.Module], dtype: torch.dtype) -> Factors:
    """Return the factors of those of `modules` that have LoRA as `LoraLinear.product` takes them, made all at once.

    Layers whose call others watch, whose weights lie elsewhere, or whose LoRA is off, are left out.
    """
    layers = [layer for layer in modules if isinstance(layer, LoraLinear) and layer.is_short and not is_watched(layer)]
    if not layers:
        return {}
    factors = [factor for layer in layers for factors in layer.factors for factor in factors]
    made = FactorCopies.apply(dtype, [len(layer.matrix_A) for layer in layers], *factors)
    return dict(zip(layers, zip(made[::2], made[1::2], strict=True), strict=True))


class LoraMixin(BaseMixin):
    """Puts LoRA beside the linear layers that match some patterns, and can merge it again.

    Args:
        layer_num: layers of the language model.
        r, lora_alpha, lora_dropout: see `LoraLinear`.
        layer_range: numbers of the language model's layers to adapt, no range; None for all.
        targets: patterns of module names, see `match_names`, or aliases: the language model's attention (llm), its MLP
            (mlp) and its head, which is what lets words be said that the model never says; the attention of qformer and
            of vit, in all their layers.
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
        """Wrap the layers of `parent_model`.

        Raises:
            SettingError: see `select_layers`.
        """
        for path in select_layers(parent_model, self.targets, self.layer_range):
            parent, _, name = path.rpartition(".")
            owner, original = parent_model.get_submodule(parent), parent_model.get_submodule(path)
            if not isinstance(original, LoraLinear):
                setattr(owner, name, LoraLinear(original, PARTS[name], **self.options))
                self.adapted.append((owner, name))

    def merge_lora(self) -> None:  # public name
        """Sum LoRA into the weights and take it away."""
        for owner, name in self.adapted:
            setattr(owner, name, getattr(owner, name).merged())
        self.adapted.clear()


def set_dropout(network: nn.Module, is_active: bool) -> None:
    """Have LoRA hide a share of its inputs, as in training, or none."""
    for module in network.modules():
        if isinstance(module, LoraLinear):
            module.dropout.train(is_active)


def has_dropout(network: nn.Module) -> bool:
    """Whether LoRA draws anything when it is called."""
    drops = (module.dropout for module in network.modules() if isinstance(module, LoraLinear))
    return any(drop.training and drop.p > 0 for drop in drops)
