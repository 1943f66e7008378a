"""Chat with VisualGLM about images on a web page.

visualglm web --from_pretrained visualglm-tiny
visualglm web --server_name 0.0.0.0 --server_port 8080 --auth me:secret
"""

import argparse
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path

from model import ChatModel, GenerationConfig, SettingError
from model.chat_model import demo_config
from model.command_line import print_text, run_program
from visualglm.arguments import check_model, choose_loader, load_model
from visualglm.local_address import listens_on_loopback
from visualglm.stop_signal import StopSignal
from visualglm.web.access import MCP_PATH
from visualglm.web.arguments import parse_arguments

PORT = 7860
MAX_CONNECTIONS = 1024
MAX_CLIENT_CONNECTIONS = 256  # of one client address, except loopback, where a proxy may run


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
    explain: bool = False,
) -> Iterator[list[str]]:
    """Context manager: serve the page during the block; yield its URLs.

    Args:
        address: to listen at; 0.0.0.0 for all addresses of this machine.
        auth: names and passwords of visitors; None for a page without login.
        share: also request a public URL from Gradio's servers; without a reply, the page has only its local URL.
        allow_hosts: host names under which browsers may open the page, besides IP addresses and localhost.
        allow_frames: origins whose pages may embed this page in a frame.
        compared, votes, keep_history, explain: see `PageService`.
        mcp, allow_image_urls: see `Page`.

    Raises:
        SettingError: the server cannot listen at the address, or the votes cannot be written.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # otherwise Gradio sends usage data to its authors
    from visualglm.connections import ConnectionLimits, limit_connections

    from .page import Page  # importing Gradio takes seconds

    tool = {"mcp": mcp, "allow_image_urls": allow_image_urls}
    page = Page(model, config, compared=compared, votes=votes, keep_history=keep_history, explain=explain, **tool)
    page.service.images.decoder.warm_up()
    try:
        with redirect_stdout(sys.stderr):  # what Gradio prints about the public URL
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
    StopSignal().wait()


def serve_page(
    model: ChatModel, config: GenerationConfig, options: argparse.Namespace, compared: ChatModel | None = None
) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    if not options.auth and (options.share or not listens_on_loopback(options.server_name)):
        print_text(
            "Warning: everyone who can reach this address can use the page. --auth requires a login.", file=sys.stderr
        )
    bypass_proxies(options.server_name, options.share)
    if options.share:
        print_text("Requesting a public URL from Gradio's servers, which can take a minute ...", file=sys.stderr)
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
        explain=is_local(options) if options.allow_explain is None else options.allow_explain,
    ) as urls:
        if options.share and len(urls) == 1:
            reason = "Gradio's servers gave none; see above"
            print_text(f"Warning: there is no public URL ({reason}). The page is served locally.", file=sys.stderr)
        print_text(f"VisualGLM is at {' and '.join(urls)} (Ctrl-C stops it)")
        if options.mcp:
            print_text(f"MCP clients find its tool at {' and '.join(url.rstrip('/') + MCP_PATH for url in urls)}")
        wait_for_shutdown_signal()


def is_local(options: argparse.Namespace) -> bool:
    """Return whether the page is meant for this machine alone, as far as its flags tell."""
    return listens_on_loopback(options.server_name) and not (options.share or options.allow_host or options.auth)


def compared_options(options: argparse.Namespace) -> argparse.Namespace | None:
    """Return the options of the model that --compare and --compare_quant name; None without these flags."""
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
    return argparse.Namespace(**{**vars(options), **changes})


def load_models(
    options: argparse.Namespace, load: Callable[..., ChatModel] | None, hf: bool
) -> tuple[ChatModel, ChatModel | None]:
    """Load the model, and the one that it is compared with; if there are two, both are checked before.

    Args:
        load: loads a model by names of its own; None for `load_sat` or `load_hf`.
        hf: use the Hugging Face model.
    """
    loader, others = choose_loader(options.hf or hf, load), compared_options(options)
    if others is not None and load is None:
        for each in (options, others):
            check_model(each, loader)
    models = [load_model(each, loader) for each in (options, others) if each is not None]
    for model in models:
        model.warm_up()
    return models[0], models[1] if others is not None else None


def run(load: Callable[..., ChatModel] | None, port: int, hf: bool, description: str | None) -> None:
    """Load the models that the command line names, and serve the page."""
    options, _ = parse_arguments(port, description)  # settings are parsed again after loading: the model has defaults
    check_address(options.server_name, options.server_port)
    if options.votes is not None:
        from .votes import VoteFile  # needs libraries of the extra `web`

        VoteFile(options.votes)  # reports a wrong path before the model is loaded
    model, compared = load_models(options, load, hf)
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
