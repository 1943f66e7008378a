"""Read what an operator may choose, each by a flag or an environment variable, with its default."""

import argparse
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from model import DEMO, SettingError
from model.environment import is_service_link, read_variable, service_link_note, to_boolean, to_integer, to_number
from model.images.decode import SERVED_FORMATS
from model.images.preprocess import ImageLimits

from ..local_address import listens_on_loopback

ENVIRONMENT_PREFIX = "VISUALGLM_"
MIB = 1024 * 1024


def setting(default: Any, text: str, flag: str | None = None, minimum: float | None = None) -> Any:
    """Return a field with its help, its flag where the field's name is not it, and the least value that makes sense."""
    return field(default=default, metadata={"help": text, "flag": flag, "minimum": minimum})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the server answers and what it refuses. Each field's help says what it means.

    Raises:
        SettingError: a value that makes no sense.
    """

    host: str = setting("127.0.0.1", "address to listen at; 0.0.0.0 for all")
    port: int = setting(8080, "port to listen at", minimum=0)
    model_name: str = setting("", "the model's name under /v1 (default: what --from_pretrained names)")
    max_batch: int = setting(16, "answers that are written at a time", minimum=1)
    max_queue: int = setting(64, "answers that may wait for their turn; more get 429", minimum=0)
    api_keys: tuple[str, ...] = setting((), "a key that a request must bring; may be given several times", "--api-key")
    max_per_key: int = setting(32, "answers at a time for one key", minimum=1)
    max_connections: int = setting(1024, "open connections", minimum=1)
    max_client_connections: int = setting(
        256, "open connections of one client address; loopback and --trusted-proxy have no such limit", minimum=1
    )
    trusted_proxies: tuple[str, ...] = setting(
        (), "address or network of a proxy whose X-Forwarded-For names the client; several times", "--trusted-proxy"
    )
    cors_origins: tuple[str, ...] = setting(
        (), "an origin whose web pages may call, or *; several times", "--cors-origin"
    )
    max_body: int = setting(24 * MIB, "bytes of a request", minimum=1)
    max_bodies: int = setting(
        64 * MIB, "bytes of all requests in flight, until their pictures are decoded; more get 503", minimum=1
    )
    max_json_tokens: int = setting(50_000, "commas, colons and opening brackets of a request", minimum=1)
    body_timeout: float = setting(30.0, "seconds in which a request must have arrived", minimum=0.01)
    max_picture: int = setting(16 * MIB, "bytes of a picture", minimum=1)
    max_pixels: int = setting(36_000_000, "pixels of a picture", minimum=1)
    decode_timeout: float = setting(10.0, "seconds of processor time for decoding a picture", minimum=0.01)
    max_text: int = setting(32_000, "characters of a question with its history", minimum=1)
    max_history: int = setting(64, "rounds of history", minimum=0)
    max_length: int = setting(DEMO.max_length, "tokens of prompt and answer together that may be asked for", minimum=1)
    max_choices: int = setting(4, "answers to one question (n) that may be asked for", minimum=1)
    request_timeout: float = setting(300.0, "seconds for a request, its waiting included", minimum=0.01)
    allow_image_urls: bool = setting(False, "read pictures from http(s) addresses, public ones alone")
    allowed_image_domains: tuple[str, ...] = setting((), "with --allow-image-urls, from these domains alone")
    allowed_image_ports: tuple[str, ...] = setting((), "with --allow-image-urls, ports to ask besides 80 and 443")
    image_url_timeout: float = setting(10.0, "seconds for reading a picture from an address", minimum=0.01)
    shutdown_timeout: float = setting(60.0, "seconds for running answers to end when the server is stopped", minimum=0)
    log_text: bool = setting(False, "write questions and answers into the log")

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
        """Answers that may be under way, those that wait included."""
        return self.max_batch + self.max_queue

    @property
    def image_limits(self) -> ImageLimits:
        """What a picture may cost."""
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
        """Add a flag for each setting; None where it is not given."""
        group = parser.add_argument_group("the server", f"Each also as {ENVIRONMENT_PREFIX}MAX_QUEUE and the like.")
        for item in fields(cls):
            group.add_argument(flag_name(item), dest=item.name, default=None, **_argument(item))

    @classmethod
    def from_arguments(
        cls,
        options: argparse.Namespace,
        environment: Mapping[str, str] = os.environ,
        note: Callable[[str], None] = lambda text: None,
    ) -> "Settings":
        """Return the settings that the flags of `add_arguments` were given, or else the environment's.

        Args:
            note: is told of each variable that is ignored.

        Raises:
            SettingError: a value that makes no sense; the message names the flag or the variable.
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
    """Return the flag of a field."""
    return item.metadata["flag"] or f"--{item.name.replace('_', '-')}"


def variable_name(item: Any) -> str:
    """Return the environment variable of a field."""
    return ENVIRONMENT_PREFIX + flag_name(item).removeprefix("--").replace("-", "_").upper()


def read_environment(item: Any, environment: Mapping[str, str], note: Callable[[str], None]) -> Any:
    """Return the value that the environment has for a field; None for none, and for the address of a service.

    Raises:
        SettingError: a value that makes no sense.
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
    """Check the value of a field, which a flag or variable called `name` was given.

    Raises:
        SettingError: a value that makes no sense.
    """
    minimum = item.metadata["minimum"]
    if minimum is not None and not value >= minimum:
        raise SettingError(f"{name} is {value}; it should be at least {minimum}.")
    if item.name == "api_keys" and not all(
        key and key.isascii() and key.isprintable() and " " not in key for key in value
    ):
        raise SettingError(f"{name}: an API key should be ASCII characters without blanks.")
    if item.name == "trusted_proxies":
        for address in value:
            _check_network(address, name)

    if item.name == "allowed_image_ports" and not all(map(_is_port, value)):
        raise SettingError(f"{name} should be numbers from 1 to 65535.")


def _is_port(text: str) -> bool:
    return text.isdecimal() and 1 <= int(text[:6]) <= 65535


def _check_network(address: str, name: str) -> None:
    try:
        ipaddress.ip_network(address, strict=False)
    except ValueError as error:
        raise SettingError(f"{name} {address} is not an IP address or network.") from error


def _argument(item: Any) -> dict[str, Any]:
    """Return what argparse needs to know of a field."""
    assert item.default is not MISSING
    text = item.metadata["help"]
    if isinstance(item.default, bool):
        return {"action": "store_true", "help": text}
    if isinstance(item.default, tuple):
        return {"action": "extend", "nargs": "+", "metavar": "WORD", "help": text}
    shown = "" if item.default == "" else f" (default {item.default})"
    return {"type": type(item.default), "help": text + shown}


def listens_locally(settings: Settings) -> bool:
    """Return whether nobody but this machine reaches the server."""
    return listens_on_loopback(settings.host)
