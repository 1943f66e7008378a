"""The MCP server with its one tool, ask_picture."""

import logging
from typing import Any

from mcp import types
from mcp.server.lowlevel import Server

from model import VisualGLMError

from ..error_texts import describe_error
from .questions import LANGUAGES, ImageQuestions, choose_language

TOOL = "ask_picture"
FAILURE = "The server has failed. Its log has the details."
logger = logging.getLogger(__name__)


def describe_tool(allow_urls: bool) -> types.Tool:
    """Return the description of the tool that clients read.

    Args:
        allow_urls: whether images may be given by http(s) URLs.
    """
    data_url = "The image as a data URL: data:image/png;base64,..."
    sources = f"{data_url}, or its http(s) URL." if allow_urls else data_url
    properties = {
        "image": {"type": "string", "description": sources},
        "question": {"type": "string", "description": "A question about the image, in Chinese or English."},
        "language": {
            "type": "string",
            "enum": sorted(LANGUAGES),
            "description": "Language of the answer; by default that of the question.",
        },
    }
    return types.Tool(
        name=TOOL,
        title="Ask about an image",
        description="Answer a question about an image with VisualGLM. Each call is independent of earlier ones.",
        inputSchema={
            "type": "object",
            "properties": properties,
            "required": ["image", "question"],
            "additionalProperties": False,
        },
        annotations=types.ToolAnnotations(readOnlyHint=True, openWorldHint=allow_urls),
    )


def make_server(questions: ImageQuestions) -> Server[Any, Any]:
    """Return an MCP server whose tool asks `questions`."""
    server: Server[Any, Any] = Server("visualglm", instructions=f"{TOOL} answers questions about images.")
    tool = describe_tool(questions.allow_urls)

    async def list_tools() -> list[types.Tool]:
        return [tool]

    async def call_tool(name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        if name != TOOL:
            return make_result(f"There is no tool {name[:100]!r}. The only tool is {TOOL}.", is_error=True)
        language = choose_language(arguments["question"], arguments.get("language"))
        try:
            return make_result(await questions.answer(**arguments))
        except VisualGLMError as error:
            return make_result(describe_error(error, language), is_error=True)
        except Exception:  # a bug, whose details are not for the client
            logger.exception("%s failed", TOOL)
            return make_result(describe_error(VisualGLMError(FAILURE), language), is_error=True)

    server.list_tools()(list_tools)
    server.call_tool()(call_tool)
    return server


def make_result(text: str, *, is_error: bool = False) -> types.CallToolResult:
    """Return a tool's result that consists of one text."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], isError=is_error)
