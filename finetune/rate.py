"""The learning rate of each step."""

import math


def rate_at(
    step: int, steps: int, peak: float, *, style: str, warmup: float, ratio: float, decay_steps: int | None
) -> float:
    """Return the learning rate of a step, which counts from 0.

    Args:
        steps: of the whole training.
        peak: the rate after the warm-up.
        style: constant, linear, cosine or exponential.
        warmup: share of the steps in which the rate rises in a line.
        ratio: share of the peak that is left in the end.
        decay_steps: steps until then; None for all.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    if style == "constant":
        return peak
    done = min(1.0, (step - rising) / max(1, (decay_steps or steps) - rising))
    if style == "exponential":
        return float(peak * ratio**done)
    left = 1 - done if style == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (ratio + (1 - ratio) * left)
