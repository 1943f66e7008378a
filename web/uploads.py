"""What Gradio's components may take from a visitor: files that were uploaded, and nothing else."""

from typing import Any

from gradio_client.utils import is_http_url_like

from model import ImageError


def accept_uploads_only(component: Any) -> None:
    """Let events get the path of the uploaded file as it is, and refuse addresses.

    By itself, Gradio would open a picture before we can say what is wrong with it, and would download what a
    visitor's program gives as a URL. Whether the path is that of an upload, it does check.
    """
    keep = component.async_move_resource_to_block_cache

    async def keep_file(path: Any) -> Any:
        if is_http_url_like(str(path)):
            raise ImageError("Only files can be uploaded here, not addresses.")
        return await keep(path)

    component.async_move_resource_to_block_cache = keep_file
    component.preprocess = path_of


def path_of(payload: Any) -> str | None:
    """Return the path that an uploaded file has here."""
    return getattr(payload, "path", None)
