"""`visualglm mcp` offers the tool over stdio to a client of the MCP library."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.api_server import DESCRIBE, DESCRIPTION, SCENE, SCENE_URL
from tests.helpers.cli_program import PATIENCE, ROOT, environment
from tests.helpers.documents import blocks
from tests.helpers.mcp_client import ToolClient, stdio_session, tool_client
from tests.helpers.preloaded import PROGRAMS, ForkedProgram

COMMAND = [sys.executable, "-m", "visualglm", "mcp", "--device", "cpu", "--temperature", "0", "--from_pretrained"]
MODULES = (*PROGRAMS, "visualglm.mcp.program")
VARIABLES = environment(PYTHONPATH=str(ROOT))


@pytest.fixture(scope="module")
def client() -> Iterator[ToolClient]:
    """Start the program as the documented configuration of a client does."""
    (configuration,) = [block for block in blocks("docs/web.md", "json") if "mcpServers" in block.text]
    server = json.loads(configuration.text)["mcpServers"]["visualglm"]
    assert server["command"] == "visualglm"
    command = [sys.executable, "-m", "visualglm", *server["args"], "--device", "cpu", "--temperature", "0"]
    with tool_client(stdio_session(command, VARIABLES)) as client:
        yield client


def test_an_image_in_a_data_url_is_answered(client: ToolClient) -> None:
    assert client.ask(image=SCENE_URL, question=DESCRIBE) == (False, DESCRIPTION)


def test_the_answer_is_in_the_question_s_language(client: ToolClient) -> None:
    failed, answer = client.ask(image=SCENE_URL, question="How many objects are in the picture?")
    assert not failed
    assert answer == "There are three objects in the picture."


@pytest.mark.parametrize("image", [str(SCENE), f"file://{SCENE}", "https://example.org/scene.png"])
def test_a_path_or_an_address_is_an_error(image: str, client: ToolClient) -> None:
    failed, message = client.ask(image=image, question=DESCRIBE)
    assert failed
    assert "data URL" in message


def test_a_damaged_image_is_an_error(client: ToolClient) -> None:
    failed, message = client.ask(image=SCENE_URL[:200], question=DESCRIBE)
    assert failed
    assert "不完整" in message  # the language of the question


@pytest.mark.parametrize("arguments", [{"image": SCENE_URL}, {"question": "?"}, {"image": 1, "question": "?"}])
def test_missing_and_wrong_arguments_are_errors(arguments: dict[str, object], client: ToolClient) -> None:
    assert client.ask(**arguments)[0]


def test_the_only_tool_tells_its_arguments(client: ToolClient) -> None:
    (tool,) = client.run(client.session.list_tools).tools
    assert tool.name == "ask_picture"
    assert set(tool.inputSchema["properties"]) == {"image", "question", "language"}
    assert tool.inputSchema["required"] == ["image", "question"]


def start(name: str, **settings: Any) -> "subprocess.Popen[Any]":
    """Start the program with the model `name`, in a process that has already imported it."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return ForkedProgram([*COMMAND[1:], name], modules=MODULES, cwd=ROOT, env=VARIABLES, **pipes, **settings)


def test_a_model_that_cannot_be_loaded_ends_the_program_while_it_waits_for_input() -> None:
    with start("./no_such_model", text=True) as process:
        assert process.wait(PATIENCE) == 1
        assert process.stdout.read() == ""
        assert process.stderr.read().startswith("error: ")


@pytest.mark.parametrize("end", ["input", "signal"])
def test_the_program_ends_with_its_input_and_by_ctrl_c(end: str) -> None:
    with start("visualglm-tiny") as process:
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        process.stdin.flush()
        assert b'"id":1' in process.stdout.readline()  # it is serving
        if end == "input":
            process.stdin.close()
            assert process.wait(PATIENCE) == 0
        else:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
