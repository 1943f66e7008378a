"""Whether the configuration's number of attention heads is that which the weights were trained with.

Any number that divides the width fits every tensor's shape, and a wrong one loads without a complaint and answers
nonsense. Files that SAT or the published model's authors wrote hold the rotary frequencies, [head_dim / 4] of them.
"""

from typing import Any

from ..errors import CheckpointError
from .lazy import Tensors
from .names import RECOMPUTED


def check_heads(tensors: Tensors, config: dict[str, Any], place: object) -> None:
    """Raise CheckpointError where rotary frequencies among `tensors` belong to another number of heads.

    Args:
        tensors: by their names in either format.
        config: the entries of a SAT model_config.json.
        place: of the model.
    """
    name = next((name for name in tensors if name.endswith(RECOMPUTED)), None)
    if name is None:
        return
    width, heads, count = config["hidden_size"], config["num_attention_heads"], tensors[name].numel()
    if width != 4 * count * heads:
        fitting = f"{width // (4 * count)} heads" if count and width % (4 * count) == 0 else "no number of heads"
        raise CheckpointError(
            f"{place}: by its configuration num_attention_heads is {heads}, but {name} holds {count} frequencies, "
            f"which with a hidden_size of {width} fit {fitting}. Read wrongly, the model answers nonsense. "
            "The weights and the configuration belong to different models. Get both from one source."
        )
