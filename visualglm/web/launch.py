"""Starts the server that shows the page, and ends it."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from model import ChatModel, GenerationConfig, SettingError

MAX_CONNECTIONS = 1024
MAX_CLIENT_CONNECTIONS = 256  # of one client address; a proxy on this machine has no such limit


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
) -> Iterator[list[str]]:
    """Serve the page during the block, which gets the URLs where it is.

    Args:
        address: to listen at; 0.0.0.0 for all of this machine's.
        auth: names and passwords of those who may enter; none for everybody.
        share: also ask Gradio's servers for a public address.
        allow_hosts: names by which the page may be called, besides addresses and localhost.
        allow_frames: origins whose pages may show this one in a frame.

    Raises:
        SettingError: nothing can listen there.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it would report to its makers
    import gradio as gr  # takes seconds

    from visualglm.server.connections import ConnectionLimits, limit_connections

    from .layout import CSS, PASTE_JS
    from .page import Page

    page = Page(model, config)
    page.reader.decoder.warm_up()
    try:
        _, local_url, share_url = page.blocks.launch(
            server_name=address,
            server_port=port,
            share=share,
            auth=auth or None,
            quiet=True,
            prevent_thread_lock=True,
            allow_hosts=allow_hosts,
            allow_frames=allow_frames,
            theme=gr.themes.Default(primary_hue="blue", secondary_hue="blue"),
            css=CSS,
            head=PASTE_JS,
        )
    except OSError as error:
        page.close()
        raise SettingError(f"The page cannot be at {address}, port {port}: {error}. Choose another port.") from error
    limit_connections(page.blocks.server.config, ConnectionLimits(MAX_CONNECTIONS, MAX_CLIENT_CONNECTIONS))
    try:
        yield [url for url in (local_url, share_url) if url]
    finally:
        page.blocks.close(verbose=False)
        page.close()


def wait_for_shutdown_signal() -> None:
    """Wait until somebody presses Ctrl-C or asks the program to end."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
