"""Gradio's Blocks with the page's checks: whoever launches it, a program or a notebook, gets them."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from visualglm.local_address import listens_on_loopback

from .access import Access
from .inputs import check_event_data, check_inputs
from .middleware import PageMiddleware
from .uploads import UploadFolder

MAX_ANSWERS = 128  # at a time; more wait in line
SPARE_THREADS = 32  # beside those that answer, so that nobody's click on Stop waits for one
MAX_WAITING = 512  # events in the queue
MAX_SESSIONS = 1000  # visitors whose conversations are kept
MAX_UPLOAD_BYTES = 32 * 1024 * 1024  # a saved conversation with its picture
# A notebook shows the page in a frame, at another port of the same machine.
NOTEBOOK_ORIGINS = ("http://localhost:*", "http://127.0.0.1:*")
logger = logging.getLogger(__name__)


class PageBlocks(gr.Blocks):
    """Blocks whose events get checked values only, and whose app checks every request before its routes.

    Args:
        folder: of the uploads.
        settings: those of gr.Blocks.
    """

    def __init__(self, folder: UploadFolder, **settings: Any) -> None:
        # Gradio creates a directory in it at once, and its own, /tmp/gradio, may be another user's.
        gr.routes.DEFAULT_TEMP_DIR = str(folder.root)
        super().__init__(**settings)
        self.folder = folder

    async def process_api(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Run an event. What it is about is checked first, because Gradio's event classes fail on anything else."""
        event = named.get("event_data")
        if event is not None:
            event._data = check_event_data(event._data)
        result: dict[str, Any] = await super().process_api(*arguments, **named)
        return result

    async def preprocess_data(self, block_fn: Any, inputs: Any, state: Any, explicit_call: bool = False) -> list[Any]:
        """Return the values for an event handler; see `check_inputs`, which replaces Gradio's own preprocessing."""
        values = check_inputs(block_fn.inputs, inputs)
        return [
            state[component._id] if component.stateful else value
            for component, value in zip(block_fn.inputs, values, strict=True)
        ]

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """Return what the browser gets. Gradio's copy of each value, kept for links into a session, is dropped."""
        output: list[Any] = await super().postprocess_data(block_fn, predictions, state)
        for component in block_fn.outputs:
            if state is not None and not component.stateful:
                state._update_value_in_config(component._id, None)
        return output

    def launch(
        self,
        *arguments: Any,
        allow_hosts: Sequence[str] = (),
        allow_frames: Sequence[str] = (),
        **settings: Any,
    ) -> Any:
        """Launch the page as gr.Blocks does.

        Args:
            allow_hosts: names by which the page may be called, besides addresses and localhost; behind a reverse
                proxy, the proxy's. If none are given and others can reach the server, any.
            allow_frames: origins whose pages may show this one in a frame.
        """
        host = settings.get("server_name") or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
        share = bool(settings.get("share")) or os.environ.get("GRADIO_SHARE", "").lower() == "true"
        frames = [*allow_frames, *(NOTEBOOK_ORIGINS if gr.utils.ipython_check() else ())]
        access = Access(
            own_host=host,
            names=allow_hosts,
            any_name=not allow_hosts and (share or not listens_on_loopback(host)),
            shared=share,
            frames=frames,
        )
        middleware = Middleware(PageMiddleware, self, access, MAX_UPLOAD_BYTES)
        settings = {
            "max_threads": MAX_ANSWERS + SPARE_THREADS,
            "max_file_size": MAX_UPLOAD_BYTES,
            "state_session_capacity": MAX_SESSIONS,
            "allowed_paths": [str(path) for path in self.folder.extra_files],
            "footer_links": ["settings"],
            "run_history": False,
            "ssr_mode": False,
            **settings,
        }
        settings["app_kwargs"] = {**(settings.get("app_kwargs") or {}), "middleware": [middleware]}
        return super().launch(*arguments, **settings)
