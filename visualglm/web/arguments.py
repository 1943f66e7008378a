"""The command line of the web page, and the environment variables that set defaults for it."""

import argparse
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from model import DEMO, GenerationConfig, SettingError
from model.command_line import ArgumentParser, print_text
from model.environment import is_service_link, read_variable, service_link_note
from visualglm.arguments import add_model_arguments
from visualglm.cli import install_command
from visualglm.local_address import MAX_PORT, is_port

PORT_VARIABLE = "GRADIO_SERVER_PORT"
AUTH_VARIABLE = "VISUALGLM_AUTH"


def parse_arguments(port: int, description: str | None = None) -> tuple[argparse.Namespace, GenerationConfig]:
    """Parse the command line; --help shows `description`."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add = parser.add_argument
    address = read_variable("GRADIO_SERVER_NAME") or "127.0.0.1"
    help_ = "address to listen at; 0.0.0.0 for all (default %(default)s)"
    add("--server_name", "--host", default=address, metavar="ADDRESS", help=help_)
    add("--server_port", "--port", type=parse_port, metavar="PORT", help=f"port to listen at (default {port})")
    add("--share", action="store_true", help="create a public URL through Gradio's servers")
    add(
        "--auth",
        metavar="NAME:PASSWORD",
        action="append",
        type=parse_login,
        help=f"login for the page; may be repeated, or set {AUTH_VARIABLE} to a comma-separated list",
    )
    add(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        type=parse_host,
        help="host name under which browsers may open the page, such as a reverse proxy's; may be repeated",
    )
    add(
        "--allow-frame",
        metavar="ORIGIN",
        action="append",
        default=[],
        type=parse_origin,
        help="origin whose pages may embed this page in a frame, like https://example.org; may be repeated",
    )
    add("--mcp", action="store_true", help="also offer the model at /mcp as a tool for programs that speak MCP")
    add("--allow-image-urls", action="store_true", help="with --mcp, read images from URLs with public addresses")
    add(
        "--allow-explain",
        action=argparse.BooleanOptionalAction,
        help="let visitors see which part of the image each word of an answer relies on "
        "(default: if the page is for this machine alone: no public address, --allow-host or --auth)",
    )
    add("--no-history", action="store_true", help="browsers store no conversations")
    add(
        "--votes", metavar="FILE", type=Path, help="append visitors' votes for answers to this file, as preference rows"
    )
    add("--compare", metavar="NAME_OR_DIR", help="second model, whose answers are shown beside those of the first")
    add(
        "--compare_quant",
        type=int,
        choices=(8, 4),
        help="quantize the second model to this many bits; without --compare, that is the same model again",
    )
    DEMO.add_arguments(parser)
    options = parser.parse_args()
    try:
        options.auth = [*(options.auth or []), *read_logins()]
        options.server_port = options.server_port or read_port(port)
        check_tool(options)
        return options, DEMO.from_arguments(options)
    except SettingError as error:
        parser.error(str(error))


def check_tool(options: argparse.Namespace) -> None:
    """Check the flags of the tool for other programs.

    Raises:
        SettingError: a package is missing, or a flag has no effect.
    """
    if options.mcp and find_spec("mcp") is None:
        raise SettingError(f"--mcp needs a package that is missing. To install it: {install_command('mcp')}")
    if options.allow_image_urls and not options.mcp:
        raise SettingError("--allow-image-urls needs --mcp.")


def parse_login(text: str) -> tuple[str, str]:
    """Parse NAME:PASSWORD."""
    name, _, password = text.partition(":")
    if not name or not password:
        raise argparse.ArgumentTypeError("A login is a name, a colon and a password, like me:secret.")
    return name, password


def parse_host(text: str) -> str:
    """Parse a host name."""
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError("A host is a name without scheme, port and path, like chat.example.org.")
    return text


def parse_origin(text: str) -> str:
    """Parse the origin of a web page; strictly, because it becomes part of a header."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?", text):
        raise argparse.ArgumentTypeError("An origin is a scheme and a host, like https://example.org or http://a.b:80.")
    return text


def read_logins() -> list[tuple[str, str]]:
    """Return the logins in the environment; the SettingError for an invalid one does not quote it."""
    try:
        return [parse_login(text) for text in filter(None, (read_variable(AUTH_VARIABLE) or "").split(","))]
    except argparse.ArgumentTypeError as error:
        raise SettingError(f"The environment variable {AUTH_VARIABLE} is wrong. {error}") from error


def read_port(default: int) -> int:
    """Return the port in the environment, or `default`.

    Gradio parses the variable at import, so the address of a Kubernetes service is removed from the environment.

    Raises:
        SettingError: the value is not a port.
    """
    text = read_variable(PORT_VARIABLE)
    if text is None or is_service_link(text):
        os.environ.pop(PORT_VARIABLE, None)
        if text is not None:
            print_text(f"note: {service_link_note(PORT_VARIABLE, text)}", file=sys.stderr)
        return default
    try:
        return parse_port(text)
    except argparse.ArgumentTypeError as error:
        raise SettingError(f"The environment variable {PORT_VARIABLE} is {text!r}. {error}") from error


def parse_port(text: str) -> int:
    """Parse a port number."""
    if not is_port(text):
        raise argparse.ArgumentTypeError(f"A port is a number from 1 to {MAX_PORT}.")
    return int(text)
