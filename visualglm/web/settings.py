"""The settings that a visitor can change: the ends of their sliders, and their values in a request."""

from collections.abc import Mapping
from dataclasses import dataclass

from model import DEMO, GenerationConfig
from model.command_line import make_printable
from model.engine.config import RANGES

from .errors import PageError
from .schemas import MAX_NAME, Number

SEED_BITS = 32  # of a random seed, and of one that a visitor enters
FRACTION = 0.01  # step of the sliders of numbers that are no integers


@dataclass(frozen=True)
class Slider:
    """The ends and the step of a setting's slider."""

    minimum: float
    maximum: float
    step: float


def make_slider(name: str, minimum: float | None = None, maximum: float | None = None) -> Slider:
    """Return the slider of a setting.

    Args:
        minimum, maximum: its ends; None for those of the valid values.

    Raises:
        ValueError: an end is not valid for the setting.
    """
    valid = RANGES[name]
    ends = (valid.least if minimum is None else minimum, valid.most if maximum is None else maximum)
    if not all(end in valid for end in ends):
        raise ValueError(f"The slider of {name} has the ends {ends}; they should be {valid}.")
    first, last = ends
    assert last is not None  # None is not valid for any of these settings
    return Slider(first, last, 1 if valid.is_integer else FRACTION)


SLIDERS = {
    "max_length": make_slider("max_length", 64, DEMO.max_length),
    "top_p": make_slider("top_p"),
    "top_k": make_slider("top_k", maximum=200),
    "temperature": make_slider("temperature", maximum=2),
    "repetition_penalty": make_slider("repetition_penalty", maximum=2),
}


def slider_ends(name: str, config: GenerationConfig) -> tuple[float, float]:
    """Return minimum and maximum of a setting; the page's own default is always within them."""
    slider, value = SLIDERS[name], getattr(config, name)
    return min(slider.minimum, value), max(slider.maximum, value)


def describe_settings(config: GenerationConfig) -> dict[str, dict[str, float | None]]:
    """Return default, minimum, maximum and step of each setting."""
    settings: dict[str, dict[str, float | None]] = {}
    for name, slider in SLIDERS.items():
        minimum, maximum = slider_ends(name, config)
        settings[name] = {"value": getattr(config, name), "min": minimum, "max": maximum, "step": slider.step}
    return {**settings, "seed": {"value": None, "min": RANGES["seed"].least, "max": 2**SEED_BITS - 1, "step": 1}}


@dataclass(frozen=True)
class SettingsParser:
    """Converts the settings of a request to a GenerationConfig.

    Attributes:
        defaults: the values of settings that the request does not have.
    """

    defaults: GenerationConfig

    def parse(self, settings: Mapping[str, Number]) -> GenerationConfig:
        """Return the settings of a request.

        Raises:
            PageError: invalid_setting, a value is not in its range; invalid_request, a setting is unknown.
            SettingError: a value is invalid for GenerationConfig.
        """
        for name, value in settings.items():
            if name not in SLIDERS and name != "seed":
                raise PageError("invalid_request", detail=f"settings.{make_printable(name)[:MAX_NAME]}")
            if value is not None and name in SLIDERS:
                self._check_range(name, value)
        return self.defaults.replace(**{name: to_integer(value) for name, value in settings.items()})

    def _check_range(self, name: str, value: float) -> None:
        minimum, maximum = slider_ends(name, self.defaults)
        if not minimum <= value <= maximum:
            raise PageError("invalid_setting", name=name, minimum=minimum, maximum=maximum)


def to_integer(value: Number) -> Number:
    """Return a float without a fraction as an integer, as JavaScript does not distinguish them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
