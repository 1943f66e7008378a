"""Which linear layers LoRA adapts: patterns of module names, as PEFT's `target_modules`, and aliases of common ones."""

import re
from collections.abc import Iterable, Sequence

from torch import nn

from ..errors import SettingError

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
