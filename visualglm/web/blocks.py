"""Gradio's Blocks, extended by checks of requests and of the values that events receive."""

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
MAX_VALUE = 200_000  # characters of the chat message that an event refers to


def check_inputs(components: Sequence[Any], values: Any) -> list[Any]:
    """Validate the values that a browser sent for an event's components; return the event handler's arguments.

    Unlike Gradio's own preprocessing, this opens, downloads, decodes and stores nothing: for a file, the handler gets
    only the path, and opens it through the upload folder. The value for a State is None.

    Raises:
        gr.Error: a value is invalid for its component.
    """
    if not isinstance(values, list) or len(values) != len(components):
        raise visitor_error(f"This event takes {len(components)} values.")
    return [check_value(component, value) for component, value in zip(components, values, strict=True)]


def check_value(component: Any, value: Any) -> Any:
    """Validate the value of one component and return it.

    Raises:
        gr.Error: the value is invalid.
    """
    if isinstance(component, gr.State):
        return None
    if isinstance(component, (gr.Image, gr.UploadButton)):
        return check_file(value)
    if isinstance(component, gr.Textbox):
        return check_text(value, component.max_length)
    if isinstance(component, (gr.Slider, gr.Number)):
        return check_number(value, component.minimum, component.maximum, component.precision)
    raise TypeError(f"{type(component).__name__} is not an input of the page")


def check_file(value: Any) -> str | None:
    """Return the path in a file component's value, None if there is no file."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH:
        raise visitor_error("Only an uploaded file can be used here. Upload one.")
    return path


def check_text(value: Any, max_length: int) -> str:
    """Return the value of a text field, "" for null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise visitor_error("A text field takes text.")
    if len(value) > max_length:
        raise visitor_error(f"The text has more than {max_length:,} characters. Shorten it.")
    return value.encode("utf-8", "replace").decode("utf-8")  # lone surrogates are valid in JSON only


def check_number(
    value: Any, minimum: float | None, maximum: float | None, precision: int | None = None
) -> float | None:
    """Return the value of a number field, None if it is empty."""
    if value is None:
        return None
    low, high = -(2**63) if minimum is None else minimum, 2**63 - 1 if maximum is None else maximum
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Compared without conversion, because an integer can be too large for a float.
    if not is_number or value != value or not low <= value <= high:
        raise visitor_error(f"A setting is out of range: it must be a number from {low} to {high}.")
    number: float = round(value) if precision == 0 else value
    return number


def check_event_data(data: Any) -> dict[str, Any]:
    """Validate the data of a click in the chat: the message's index (-1 if invalid) and its text."""
    given = data if isinstance(data, dict) else {}
    texts = {name: message_text(given.get(name)) for name in ("value", "previous_value")}
    index = given.get("index")
    is_index = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 2**31
    return {"index": index if is_index else -1, **texts}


def message_text(value: Any) -> str:
    """Return the text of a chat message, "" if the value is not a string.

    Raises:
        gr.Error: the text is too long.
    """
    return check_text(value, MAX_VALUE) if isinstance(value, str) else ""


def visitor_error(message: str) -> gr.Error:
    """Return an error that shows `message` to the visitor and writes no traceback to the log."""
    return gr.Error(message, print_exception=False)


MAX_ANSWERS = 128  # concurrent answers; more wait in the queue
SPARE_THREADS = 32  # in addition to the answers' threads, so that clicks on Stop never wait for a thread
MAX_WAITING = 512  # events in Gradio's queue
MAX_SESSIONS = 1000  # visitors with a stored session
MAX_UPLOAD_BYTES = 32 * 1024 * 1024  # enough for a saved conversation with its image
# A notebook embeds the page in a frame from another port of the same machine.
NOTEBOOK_ORIGINS = ("http://localhost:*", "http://127.0.0.1:*")
logger = logging.getLogger(__name__)


class PageBlocks(gr.Blocks):
    """Blocks that validate the values of events, and whose app checks each request before Gradio's routes.

    Args:
        folder: stores the uploads.
        settings: arguments of gr.Blocks.
    """

    def __init__(self, folder: UploadFolder, **settings: Any) -> None:
        # Gradio creates a directory there immediately; its default, /tmp/gradio, may belong to another user.
        gr.routes.DEFAULT_TEMP_DIR = str(folder.root)
        super().__init__(**settings)
        self.folder = folder

    async def process_api(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Run an event. Its data is validated first, because Gradio's event classes fail on invalid data."""
        event = named.get("event_data")
        if event is not None:
            event._data = check_event_data(event._data)
        result: dict[str, Any] = await super().process_api(*arguments, **named)
        return result

    async def preprocess_data(self, block_fn: Any, inputs: Any, state: Any, explicit_call: bool = False) -> list[Any]:
        """Return the arguments of an event handler; `check_inputs` replaces Gradio's own preprocessing."""
        values = check_inputs(block_fn.inputs, inputs)
        return [
            state[component._id] if component.stateful else value
            for component, value in zip(block_fn.inputs, values, strict=True)
        ]

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """Return the values for the browser. Drop Gradio's copy of each, which serves deep links into a session."""
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
            allow_hosts: host names under which browsers may open the page, besides IP addresses and localhost, such as
                a reverse proxy's. If empty and other machines can reach the server, all names are allowed.
            allow_frames: origins whose pages may embed this page in a frame.
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
