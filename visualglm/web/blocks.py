"""Extend Gradio's Blocks with the page's checks: who may ask, and what an event accepts."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ..local_address import listens_on_loopback
from .access import AccessPolicy
from .middleware import PageMiddleware
from .uploads import UploadFolder

MAX_PATH = 4096  # characters
MAX_VALUE = 200_000  # characters of a chat message that an event is about


def check_inputs(components: Sequence[Any], values: Any) -> list[Any]:
    """Return what an event handler gets for the values that were sent for its components; None for a State.

    Unlike Gradio's own preprocessing, nothing is opened, downloaded, decoded or kept: of a file, the handler gets the
    path alone, and opens it through the upload folder.

    Raises:
        gr.Error: a value that its component cannot hold.
    """
    if not isinstance(values, list) or len(values) != len(components):
        raise visitor_error(f"This event takes {len(components)} values.")
    return [check_value(component, value) for component, value in zip(components, values, strict=True)]


def check_value(component: Any, value: Any) -> Any:
    """Return the value of one component.

    Raises:
        gr.Error: the component cannot hold it.
    """
    if isinstance(component, gr.State):
        return None
    if isinstance(component, (gr.Image, gr.UploadButton)):
        return check_file(value)
    if isinstance(component, gr.Textbox):
        return check_text(value, component.max_length)
    if isinstance(component, (gr.Slider, gr.Number)):
        return check_number(value, component.minimum, component.maximum, component.precision)
    raise TypeError(f"{type(component).__name__} is no input of the page")


def check_file(value: Any) -> str | None:
    """Return the path in the value of a component for files, None for no file."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH:
        raise visitor_error("Only an uploaded file can be used here. Upload one.")
    return path


def check_text(value: Any, max_length: int) -> str:
    """Return the text in a field; "" for none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise visitor_error("A text field takes text.")
    if len(value) > max_length:
        raise visitor_error(f"The text has more than {max_length:,} characters. Shorten it.")
    return value.encode("utf-8", "replace").decode("utf-8")  # JSON can hold half a character, nothing else can


def check_number(
    value: Any, minimum: float | None, maximum: float | None, precision: int | None = None
) -> float | None:
    """Return a setting's number, None for an empty field."""
    if value is None:
        return None
    low, high = -(2**63) if minimum is None else minimum, 2**63 - 1 if maximum is None else maximum
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Compared before anything converts it: an integer can be too large for a float.
    if not is_number or value != value or not low <= value <= high:
        raise visitor_error(f"A setting is out of range: it takes a number from {low} to {high}.")
    number: float = round(value) if precision == 0 else value
    return number


def check_event_data(data: Any) -> dict[str, Any]:
    """Return what is sent about a click in the chat: the message's number (-1 for none) and its text."""
    given = data if isinstance(data, dict) else {}
    texts = {name: as_text(given.get(name)) for name in ("value", "previous_value")}
    index = given.get("index")
    is_index = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 2**31
    return {"index": index if is_index else -1, **texts}


def as_text(value: Any) -> str:
    """Return the text of a chat message as the page's own browser sends it, "" for anything else.

    Raises:
        gr.Error: it is too long.
    """
    return check_text(value, MAX_VALUE) if isinstance(value, str) else ""


def visitor_error(message: str) -> gr.Error:
    """Return the error that shows `message` to the visitor and leaves no traceback in the log."""
    return gr.Error(message, print_exception=False)


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
        frame_origins = [*allow_frames, *(NOTEBOOK_ORIGINS if gr.utils.ipython_check() else ())]
        access = AccessPolicy(
            own_host=host,
            names=allow_hosts,
            any_name=not allow_hosts and (share or not listens_on_loopback(host)),
            shared=share,
            frame_origins=frame_origins,
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
