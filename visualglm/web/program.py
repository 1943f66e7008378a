"""Chat with VisualGLM about images on a web page.

visualglm web --from_pretrained visualglm-tiny
visualglm web --server_name 0.0.0.0 --server_port 8080 --auth me:secret
"""

import argparse
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from model import DEMO, ChatModel, GenerationConfig, SettingError
from model.chat_model import demo_config
from model.command_line import ArgumentParser, print_text, run_program
from model.environment import is_service_link, read_variable, service_link_note
from visualglm.arguments import add_model_arguments, choose_loader, load_model
from visualglm.cli import install_command
from visualglm.local_address import listens_on_loopback
from visualglm.web.access import MCP_PATH

PORT = 7860
PORT_VARIABLE = "GRADIO_SERVER_PORT"
AUTH_VARIABLE = "VISUALGLM_AUTH"
MAX_CONNECTIONS = 1024
MAX_CLIENT_CONNECTIONS = 256  # of one client address, except loopback, where a proxy may run


def parse_arguments(port: int, description: str | None = __doc__) -> tuple[argparse.Namespace, GenerationConfig]:
    """Parse the command line; --help shows `description`."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add = parser.add_argument
    address = read_variable("GRADIO_SERVER_NAME") or "127.0.0.1"
    help_ = "address to listen at; 0.0.0.0 for all (default %(default)s)"
    add("--server_name", default=address, metavar="ADDRESS", help=help_)
    add("--server_port", type=parse_port, metavar="PORT", help=f"port to listen at (default {port})")
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
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"A port is a number from 1 to {2**16 - 1}.")
    return int(text)


def check_address(address: str, port: int) -> None:
    """Check that a server can listen at an address, before the model is loaded.

    Raises:
        SettingError: the port is in use, or the address does not belong to this machine.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingError(f"The page cannot listen at {address} port {port}: {reason}. Choose another.") from error


def bypass_proxies(address: str, share: bool) -> None:
    """Exclude the page from the environment's proxies, because Gradio requests its own page at startup.

    Without --share, all proxies are disabled: nothing else is requested, and a proxy that Gradio's HTTP client does not
    support, such as SOCKS, would make it fail.
    """
    for name in ("no_proxy", "NO_PROXY"):
        own = ",".join(filter(None, [os.environ.get(name), "localhost", "127.0.0.1", address]))
        os.environ[name] = own if share and supports_proxies() else "*"


def supports_proxies() -> bool:
    """Return whether Gradio's HTTP client supports the proxies of the environment."""
    import httpx

    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL):  # SOCKS, an unknown scheme, or an invalid URL
        return False
    return True


@contextmanager
def launched_page(
    model: ChatModel,
    config: GenerationConfig,
    address: str,
    port: int,
    *,
    auth: list[tuple[str, str]] | None = None,
    share: bool = False,
    allow_hosts: Sequence[str] = (),
    allow_frames: Sequence[str] = (),
    compared: ChatModel | None = None,
    votes: Path | None = None,
    keep_history: bool = True,
    mcp: bool = False,
    allow_image_urls: bool = False,
) -> Iterator[list[str]]:
    """Context manager: serve the page during the block; yield its URLs.

    Args:
        address: to listen at; 0.0.0.0 for all addresses of this machine.
        auth: names and passwords of visitors; None for a page without login.
        share: also request a public URL from Gradio's servers.
        allow_hosts: host names under which browsers may open the page, besides IP addresses and localhost.
        allow_frames: origins whose pages may embed this page in a frame.
        compared, votes, keep_history: see `PageService`.
        mcp, allow_image_urls: see `Page`.

    Raises:
        SettingError: the server cannot listen at the address, or the votes cannot be written.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # otherwise Gradio sends usage data to its authors
    from visualglm.connections import ConnectionLimits, limit_connections

    from .page import Page  # importing Gradio takes seconds

    tool = {"mcp": mcp, "allow_image_urls": allow_image_urls}
    page = Page(model, config, compared=compared, votes=votes, keep_history=keep_history, **tool)
    page.service.images.decoder.warm_up()
    try:
        _, local_url, share_url = page.launch(
            server_name=address,
            server_port=port,
            share=share,
            auth=auth or None,
            quiet=True,
            prevent_thread_lock=True,
            allow_hosts=allow_hosts,
            allow_frames=allow_frames,
        )
    except OSError as error:
        page.close()
        raise SettingError(f"The page cannot listen at {address} port {port}: {error}. Choose another port.") from error
    limit_connections(page.blocks.server.config, ConnectionLimits(MAX_CONNECTIONS, MAX_CLIENT_CONNECTIONS))
    try:
        yield [url for url in (local_url, share_url) if url]
    finally:
        page.end_sessions()
        page.blocks.close(verbose=False)
        page.close()


def wait_for_shutdown_signal() -> None:
    """Wait for SIGINT (Ctrl-C) or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def serve_page(
    model: ChatModel, config: GenerationConfig, options: argparse.Namespace, compared: ChatModel | None = None
) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    if not options.auth and (options.share or not listens_on_loopback(options.server_name)):
        print_text(
            "Warning: everyone who can reach this address can use the page. --auth requires a login.", file=sys.stderr
        )
    bypass_proxies(options.server_name, options.share)
    with launched_page(
        model,
        config,
        options.server_name,
        options.server_port,
        auth=options.auth,
        share=options.share,
        allow_hosts=options.allow_host,
        allow_frames=options.allow_frame,
        compared=compared,
        votes=options.votes,
        keep_history=not options.no_history,
        mcp=options.mcp,
        allow_image_urls=options.allow_image_urls,
    ) as urls:
        print_text(f"VisualGLM is at {' and '.join(urls)} (Ctrl-C stops it)")
        if options.mcp:
            print_text(f"MCP clients find its tool at {' and '.join(url.rstrip('/') + MCP_PATH for url in urls)}")
        wait_for_shutdown_signal()


def load_compared(options: argparse.Namespace, load: Callable[..., ChatModel]) -> ChatModel | None:
    """Load the model that --compare and --compare_quant name; None without these flags."""
    if options.compare is None and options.compare_quant is None:
        return None
    name = options.compare or options.from_pretrained
    changes = {
        "from_pretrained": name,
        "base": options.base if name == options.from_pretrained else None,
        "quant": options.compare_quant,
        "quant_vision": options.quant_vision and options.compare_quant is not None,
        "quant_embeddings": options.quant_embeddings and options.compare_quant is not None,
    }
    return load_model(argparse.Namespace(**{**vars(options), **changes}), load)


def run(load: Callable[..., ChatModel] | None, port: int, hf: bool, description: str | None) -> None:
    """Load the models that the command line names, and serve the page."""
    options, _ = parse_arguments(port, description)  # settings are parsed again after loading: the model has defaults
    check_address(options.server_name, options.server_port)
    if options.votes is not None:
        from .votes import VoteFile  # needs libraries of the extra `web`

        VoteFile(options.votes)  # reports a wrong path before the model is loaded
    loader = choose_loader(options.hf or hf, load)
    model = load_model(options, loader)
    model.warm_up()
    compared = load_compared(options, loader)
    if compared is not None:
        compared.warm_up()
    serve_page(model, demo_config(model).from_arguments(options), options, compared)


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
        port: the default port.
        hf: use the Hugging Face model, as the flag --hf does.
        description: shown by --help.
    """
    return run_program(partial(run, load, port, hf, description))
