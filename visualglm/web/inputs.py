"""What a visitor's program may send to the page's events: checked before Gradio or an event handler reads it."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

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
        raise refuse(f"This event takes {len(components)} values.")
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
        raise refuse("Only an uploaded file can be used here. Upload one.")
    return path


def check_text(value: Any, max_length: int) -> str:
    """Return the text in a field; "" for none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise refuse("A text field takes text.")
    if len(value) > max_length:
        raise refuse(f"The text has more than {max_length:,} characters. Shorten it.")
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
        raise refuse(f"A setting is out of range: it takes a number from {low} to {high}.")
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


def refuse(message: str) -> gr.Error:
    """Return the error that shows `message` to the visitor and leaves no traceback in the log."""
    return gr.Error(message, print_exception=False)
