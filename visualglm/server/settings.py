"""The server's settings, each from a flag, an environment variable or its default."""

import argparse
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from model import DEMO, SettingError
from model.aliases import FormerAttribute
from model.environment import is_service_link, read_variable, service_link_note, to_boolean, to_integer, to_number
from model.images.decode import SERVED_FORMATS
from model.images.preprocess import ImageLimits

from ..local_address import MAX_PORT, is_port, listens_on_loopback

ENVIRONMENT_PREFIX = "VISUALGLM_"
MIB = 1024 * 1024


def setting(
    default: Any, text: str, flag: str | None = None, minimum: float | None = None, maximum: float | None = None
) -> Any:
    """Define a field of `Settings`.

    Args:
        text: the help.
        flag: if it is not derived from the field's name.
        minimum, maximum: the smallest and the largest valid value.
    """
    return field(default=default, metadata={"help": text, "flag": flag, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the server; the help of each field documents it.

    Raises:
        SettingError: a value is invalid.
    """

    host: str = setting("127.0.0.1", "address to listen at; 0.0.0.0 for all")
    port: int = setting(8080, "port to listen at; 0 for any that is free", minimum=0, maximum=MAX_PORT)
    model_name: str = setting("", "the model's name under /v1 (default: the last part of --from_pretrained)")
    max_batch: int = setting(16, "maximum batch size: answers that are generated at once", minimum=1)
    max_queue: int = setting(64, "answers that may wait in the queue; more get 429", minimum=0)
    api_keys: tuple[str, ...] = setting((), "API key that requests must have; may be repeated", "--api-key")
    max_per_key: int = setting(32, "maximum of concurrent answers for one key", minimum=1)
    max_connections: int = setting(1024, "maximum of open connections", minimum=1)
    max_client_connections: int = setting(
        256, "maximum of open connections from one address, except loopback and --trusted-proxy", minimum=1
    )
    trusted_proxies: tuple[str, ...] = setting(
        (), "address or network of a proxy whose header X-Forwarded-For is trusted; may be repeated", "--trusted-proxy"
    )
    cors_origins: tuple[str, ...] = setting(
        (), "origin whose web pages may send requests, or *; may be repeated", "--cors-origin"
    )
    max_body: int = setting(24 * MIB, "maximum bytes of a request body", minimum=1)
    max_bodies: int = setting(
        64 * MIB, "maximum bytes of all request bodies whose images are not decoded yet; more get 503", minimum=1
    )
    max_json_tokens: int = setting(50_000, "maximum of commas, colons and opening brackets in a request", minimum=1)
    body_timeout: float = setting(30.0, "seconds until a request body must have arrived", minimum=0.01)
    max_picture: int = setting(16 * MIB, "maximum bytes of an image file", minimum=1)
    max_pixels: int = setting(36_000_000, "maximum pixels of an image", minimum=1)
    decode_timeout: float = setting(10.0, "CPU seconds for decoding an image", minimum=0.01)
    max_text: int = setting(32_000, "maximum characters of a question with its history", minimum=1)
    max_history: int = setting(64, "maximum turns of history", minimum=0)
    max_length: int = setting(DEMO.max_length, "largest max_length of a request, prompt and answer", minimum=1)
    max_choices: int = setting(4, "largest n of a request: answers to one question", minimum=1)
    request_timeout: float = setting(300.0, "seconds until a request times out, queueing included", minimum=0.01)
    allow_image_urls: bool = setting(False, "read images from http(s) URLs with public addresses")
    allowed_image_domains: tuple[str, ...] = setting((), "with --allow-image-urls, the only domains to read from")
    allowed_image_ports: tuple[str, ...] = setting((), "with --allow-image-urls, ports besides 80 and 443 to read from")
    image_url_timeout: float = setting(10.0, "seconds for downloading an image", minimum=0.01)
    allow_explain: bool = setting(False, "explain answers whose requests ask for it: which part of the image decides")
    shutdown_timeout: float = setting(60.0, "seconds for running answers to end at shutdown", minimum=0)
    log_text: bool = setting(False, "write questions and answers to the log")

    def __post_init__(self) -> None:
        for item in fields(self):
            check_value(item, getattr(self, item.name), flag_name(item))
        for flag, values in {
            "--allowed-image-domains": self.allowed_image_domains,
            "--allowed-image-ports": self.allowed_image_ports,
        }.items():
            if values and not self.allow_image_urls:
                raise SettingError(f"{flag} needs --allow-image-urls.")

    @property
    def max_concurrent_answers(self) -> int:
        """Maximum of answers that are generated or queued."""
        return self.max_batch + self.max_queue

    most_answers = FormerAttribute("max_concurrent_answers")

    @property
    def image_limits(self) -> ImageLimits:
        """Limits on the size and the source of an image."""
        return ImageLimits(
            max_pixels=self.max_pixels,
            max_bytes=self.max_picture,
            timeout=self.image_url_timeout,
            public_only=True,
            domains=self.allowed_image_domains,
            formats=SERVED_FORMATS,
            ports=tuple(int(port) for port in self.allowed_image_ports),
        )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add a flag for each setting; the value of an absent flag is None."""
        note = f"Each option has an environment variable, such as {ENVIRONMENT_PREFIX}MAX_QUEUE for --max-queue."
        group = parser.add_argument_group("server options", note)
        for item in fields(cls):
            group.add_argument(flag_name(item), dest=item.name, default=None, **_argument(item))

    @classmethod
    def from_arguments(
        cls,
        options: argparse.Namespace,
        environment: Mapping[str, str] = os.environ,
        note: Callable[[str], None] = lambda text: None,
    ) -> "Settings":
        """Return the settings from the flags of `add_arguments`; for absent flags, from the environment.

        Args:
            note: called with a message for each variable that is ignored.

        Raises:
            SettingError: a value is invalid; the message names the flag or the variable.
        """
        given: dict[str, Any] = {}
        for item in fields(cls):
            value = getattr(options, item.name)
            if value is None:
                value = read_environment(item, environment, note)
            if value is not None:
                given[item.name] = tuple(value) if isinstance(value, list) else value
        return cls(**given)


def flag_name(item: Any) -> str:
    """Return the command-line flag of a field of `Settings`."""
    return item.metadata["flag"] or f"--{item.name.replace('_', '-')}"


def variable_name(item: Any) -> str:
    """Return the environment variable of a field of `Settings`."""
    return ENVIRONMENT_PREFIX + flag_name(item).removeprefix("--").replace("-", "_").upper()


def read_environment(item: Any, environment: Mapping[str, str], note: Callable[[str], None]) -> Any:
    """Return a field's value from the environment; None if the variable is unset or a service link of Kubernetes.

    Raises:
        SettingError: the value is invalid.
    """
    name = variable_name(item)
    given = read_variable(name, environment)
    if given is None:
        return None
    if is_service_link(given):
        note(service_link_note(name, given))
        return None
    value = _convert(item.default, given, name)
    check_value(item, value, name)
    return value


def _convert(default: Any, given: str, name: str) -> Any:
    """Convert the value of the variable `name` to the type of a field's default."""
    match default:
        case bool():
            return to_boolean(given, name)
        case int():
            return to_integer(given, name)
        case float():
            return to_number(given, name)
        case tuple():
            return tuple(given.replace(",", " ").split())
        case _:
            return given


def check_value(item: Any, value: Any, name: str) -> None:
    """Validate the value that the flag or variable `name` has for a field.

    Raises:
        SettingError: the value is invalid.
    """
    minimum, maximum = item.metadata["minimum"], item.metadata["maximum"]
    if minimum is not None and not value >= minimum:
        raise SettingError(f"{name} is {value}; it should be at least {minimum}.")
    if maximum is not None and value > maximum:
        raise SettingError(f"{name} is {value}; it should be at most {maximum}.")
    if item.name == "api_keys" and not all(
        key and key.isascii() and key.isprintable() and " " not in key for key in value
    ):
        raise SettingError(f"{name}: an API key should be ASCII characters without spaces.")
    if item.name == "trusted_proxies":
        for address in value:
            _check_network(address, name)

    if item.name == "allowed_image_ports" and not all(map(is_port, value)):
        raise SettingError(f"{name} should be numbers from 1 to {MAX_PORT}.")


def _check_network(address: str, name: str) -> None:
    try:
        ipaddress.ip_network(address, strict=False)
    except ValueError as error:
        raise SettingError(f"{name} {address} is not an IP address or network.") from error


def _argument(item: Any) -> dict[str, Any]:
    """Return the arguments of `add_argument` for a field."""
    assert item.default is not MISSING
    text = item.metadata["help"]
    if isinstance(item.default, bool):
        return {"action": "store_true", "help": text}
    if isinstance(item.default, tuple):
        return {"action": "extend", "nargs": "+", "metavar": "WORD", "help": text}
    shown = "" if item.default == "" else f" (default {item.default})"
    return {"type": type(item.default), "help": text + shown}


def listens_locally(settings: Settings) -> bool:
    """Return whether only this machine can reach the server."""
    return listens_on_loopback(settings.host)
