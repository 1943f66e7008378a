"""The page: a Gradio app whose only component holds the client, which talks to the page's own routes."""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from model import ChatModel, GenerationConfig

from ..local_address import listens_on_loopback
from .access import AccessPolicy
from .middleware import PageMiddleware
from .routes import PageRoutes
from .service import PageService

# A notebook embeds the page in a frame from another port of the same machine.
NOTEBOOK_ORIGINS = ("http://localhost:*", "http://127.0.0.1:*")
SYSTEM_FONTS = ("system-ui", "sans-serif")  # Gradio's default fonts are downloads
SYSTEM_MONO_FONTS = ("ui-monospace", "monospace")
TEMP_DIR_VARIABLE = "GRADIO_TEMP_DIR"
MOUNT_JS = "window.visualglm.mount(element);"
# Makes the component as large as the page.
CSS = """
.gradio-container { max-width: none !important; padding: 0 !important; }
.gradio-container main { padding: 0 !important; }
"""


@functools.cache
def temporary_folder() -> str:
    """Create this process's folder for Gradio's temporary files (mode 700); it is removed at exit.

    Gradio creates its folder although the page stores no files; the default, /tmp/gradio, may belong to another user.
    """
    folder = tempfile.mkdtemp(prefix="visualglm-", dir=os.environ.get(TEMP_DIR_VARIABLE) or None)
    os.environ[TEMP_DIR_VARIABLE] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Page:
    """The page for one model or two, shared by all visitors.

    Args:
        model, config: see `PageService`.
        mcp: whether programs that speak MCP can call the model as a tool.
        allow_image_urls: whether the tool downloads images.
        options: further arguments of `PageService`.

    Raises:
        SettingError: the file of votes cannot be written.
    """

    def __init__(
        self,
        model: ChatModel,
        config: GenerationConfig,
        *,
        mcp: bool = False,
        allow_image_urls: bool = False,
        **options: Any,
    ) -> None:
        self.service = PageService(model, config, **options)
        self.routes = PageRoutes(self.service)
        self.mcp = None
        if mcp:
            from ..mcp.http import mcp_app  # needs an extra

            self.mcp = mcp_app(model, config, allow_urls=allow_image_urls)
        gr.routes.DEFAULT_TEMP_DIR = temporary_folder()
        with gr.Blocks(title="VisualGLM", analytics_enabled=False) as self.blocks:
            gr.HTML(elem_id="app", js_on_load=MOUNT_JS, apply_default_css=False)

    def close(self) -> None:
        """Stop the threads and the processes that decode images."""
        self.end_sessions()
        self.routes.close()
        self.service.images.close()

    def end_sessions(self) -> None:
        """End the connections of MCP clients, which would otherwise stay open."""
        if self.mcp is not None:
            self.mcp.close()

    def launch(
        self,
        *,
        server_name: str | None = None,
        share: bool = False,
        allow_hosts: Sequence[str] = (),
        allow_frames: Sequence[str] = (),
        **settings: Any,
    ) -> Any:
        """Launch the page as gr.Blocks does.

        Args:
            server_name: address to listen at.
            share: also request a public URL from Gradio's servers.
            allow_hosts: host names under which browsers may open the page, besides IP addresses and localhost, such as
                a reverse proxy's. If empty and other machines can reach the server, all names are allowed.
            allow_frames: origins whose pages may embed this page in a frame.
            settings: further arguments of gr.Blocks.launch.
        """
        host = server_name or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
        shared = share or os.environ.get("GRADIO_SHARE", "").lower() == "true"
        access = AccessPolicy(
            own_host=host,
            names=allow_hosts,
            any_name=not allow_hosts and (shared or not listens_on_loopback(host)),
            shared=shared,
            frame_origins=[*allow_frames, *(NOTEBOOK_ORIGINS if gr.utils.ipython_check() else ())],
        )
        guard = Middleware(PageMiddleware, self.routes, access, self.mcp, settings.get("auth") or ())
        theme = gr.themes.Default(
            primary_hue="blue", secondary_hue="blue", font=SYSTEM_FONTS, font_mono=SYSTEM_MONO_FONTS
        )
        return self.blocks.launch(
            server_name=server_name,
            share=share,
            theme=theme,
            css=CSS,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            app_kwargs={"middleware": [guard]},
            **settings,
        )
