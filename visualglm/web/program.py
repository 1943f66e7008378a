"""Talk with VisualGLM about a picture, on a web page.

visualglm web --from_pretrained visualglm-tiny
visualglm web --server_name 0.0.0.0 --server_port 8080 --auth me:secret
"""

import argparse
import os
import re
import socket
import sys
from collections.abc import Callable
from functools import partial

from model import DEMO, ChatModel, GenerationConfig, SettingError
from model.chat_model import demo_config
from model.command_line import ArgumentParser, print_text, run_program
from model.environment import is_service_link, read_variable, service_link_note
from visualglm.arguments import add_model_arguments, choose_loader, load_model
from visualglm.local_address import listens_on_loopback
from visualglm.web.launch import launched_page, wait_for_shutdown_signal

PORT = 7860
PORT_VARIABLE = "GRADIO_SERVER_PORT"
AUTH_VARIABLE = "VISUALGLM_AUTH"


def parse_arguments(port: int, description: str | None = __doc__) -> tuple[argparse.Namespace, GenerationConfig]:
    """Read the command line; --help shows `description`."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add = parser.add_argument
    address = read_variable("GRADIO_SERVER_NAME") or "127.0.0.1"
    add("--server_name", default=address, metavar="ADDRESS", help="0.0.0.0 for all (default %(default)s)")
    add("--server_port", type=parse_port, metavar="PORT", help=f"where it listens (default {port})")
    add("--share", action="store_true", help="also give the page a public address, through Gradio's servers")
    add(
        "--auth",
        metavar="NAME:PASSWORD",
        action="append",
        type=parse_login,
        help=f"who may enter; may be given several times, or in {AUTH_VARIABLE} with commas in between",
    )
    add(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        type=parse_host,
        help="a name by which the page may be called, such as a reverse proxy's; may be given several times",
    )
    add(
        "--allow-frame",
        metavar="ORIGIN",
        action="append",
        default=[],
        type=parse_origin,
        help="an origin whose pages may show this one in a frame, like https://example.org; may be given several times",
    )
    DEMO.add_arguments(parser)
    options = parser.parse_args()
    try:
        options.auth = [*(options.auth or []), *read_logins()]
        options.server_port = options.server_port or read_port(port)
        return options, DEMO.from_arguments(options)
    except SettingError as error:
        parser.error(str(error))


def parse_login(text: str) -> tuple[str, str]:
    """Read a name and a password with a colon in between."""
    name, _, password = text.partition(":")
    if not name or not password:
        raise argparse.ArgumentTypeError("A login is a name, a colon and a password, like me:secret.")
    return name, password


def parse_host(text: str) -> str:
    """Read the name of a host."""
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError("A host is a name without scheme, port and path, like chat.example.org.")
    return text


def parse_origin(text: str) -> str:
    """Read the origin of a web page, which becomes a part of a header."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?", text):
        raise argparse.ArgumentTypeError("An origin is a scheme and a host, like https://example.org or http://a.b:80.")
    return text


def read_logins() -> list[tuple[str, str]]:
    """Read the logins in the environment; raise SettingError for one that has another form, without showing it."""
    try:
        return [parse_login(text) for text in filter(None, (read_variable(AUTH_VARIABLE) or "").split(","))]
    except argparse.ArgumentTypeError as error:
        raise SettingError(f"The environment variable {AUTH_VARIABLE} is wrong. {error}") from error


def read_port(default: int) -> int:
    """Return the port in the environment, or `default`.

    Gradio converts the variable when it is imported, so a value that is not a port is removed from the environment.

    Raises:
        SettingError: the value is no port.
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
    """Read the number of a port."""
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"A port is a number from 1 to {2**16 - 1}.")
    return int(text)


def check_address(address: str, port: int) -> None:
    """See whether a server can be there, before a model is loaded for it.

    Raises:
        SettingError: the port is taken, or the address not this machine's.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingError(f"There can be no page at {address}, port {port}: {reason}. Choose another.") from error


def bypass_proxies(address: str, share: bool) -> None:
    """Let Gradio, which looks for its own page when it starts, ask no proxy for it.

    Only --share needs others' addresses. Proxies that Gradio's client cannot read, such as SOCKS ones, would end it.
    """
    for name in ("no_proxy", "NO_PROXY"):
        own = ",".join(filter(None, [os.environ.get(name), "localhost", "127.0.0.1", address]))
        os.environ[name] = own if share and supports_proxies() else "*"


def supports_proxies() -> bool:
    """Return whether Gradio's HTTP client can use the proxies that the environment names."""
    import httpx

    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL):  # no SOCKS support, an unknown scheme, no URL
        return False
    return True


def serve_page(model: ChatModel, config: GenerationConfig, options: argparse.Namespace) -> None:
    """Show the page until Ctrl-C."""
    if not options.auth and (options.share or not listens_on_loopback(options.server_name)):
        print_text(
            "Warning: everybody who can reach this address can use the page. --auth asks for a login.", file=sys.stderr
        )
    bypass_proxies(options.server_name, options.share)
    allowed = {"allow_hosts": options.allow_host, "allow_frames": options.allow_frame}
    where = (options.server_name, options.server_port)
    with launched_page(model, config, *where, auth=options.auth, share=options.share, **allowed) as urls:
        print_text(f"VisualGLM is at {' and '.join(urls)} (Ctrl-C ends it)")
        wait_for_shutdown_signal()


def run(load: Callable[..., ChatModel] | None, port: int, hf: bool, description: str | None) -> None:
    """Load the model that the command line names, and show the page."""
    options, _ = parse_arguments(port, description)  # the model's own settings are known only when it is loaded
    check_address(options.server_name, options.server_port)
    model = load_model(options, choose_loader(options.hf or hf, load))
    model.warm_up()
    serve_page(model, demo_config(model).from_arguments(options), options)


def main(
    load: Callable[..., ChatModel] | None = None,
    port: int = PORT,
    *,
    hf: bool = False,
    description: str | None = __doc__,
) -> int:
    """Run the program; return the exit code.

    Args:
        load: loads the model; None for `load_sat` or `load_hf`.
        port: where the page is if neither a flag nor the environment says so.
        hf: use the Hugging Face model, as the flag --hf does.
        description: shown by --help.
    """
    return run_program(partial(run, load, port, hf, description))
