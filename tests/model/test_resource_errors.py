"""Exhausted memory or file descriptors end a program with one line of text, and a request with status 503."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model import (
    DEMO,
    Conversation,
    GenerationError,
    ImageError,
    ResourceError,
    SatChatModel,
    VisualGLMError,
    VisualGLMModel,
)
from model.engine.batch import translate_oom
from model.images.decode import DEFAULT_LIMITS, _translate_pillow_errors
from model.resource_errors import (
    OUT_OF_FILES,
    OUT_OF_MEMORY,
    OUT_OF_THREADS,
    find_resource_error,
    translate_resource_errors,
)
from tests.helpers.api_server import SteppedModel, completion, serving
from tests.helpers.cli_program import environment
from tests.helpers.ports import free_port
from tests.helpers.preloaded import BARE, run_preloaded

ROOT = Path(__file__).parents[2]
needs_limits = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's limits")
# Import everything first, and leave some memory: an import or a small object that fails kills the interpreter.
LIMITED = """
import resource, runpy, sys, os
from pathlib import Path
from model import load_sat
load_sat("visualglm-tiny", device="cpu").tokenizer
import {module} as program
if {kind!r} == "memory":
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 16_000_000,) * 2)
else:
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
sys.argv = [{module!r}, "--from_pretrained", "visualglm-tiny", "--device", "cpu", *{flags!r}]
sys.exit(program.main())
"""


@needs_limits
@pytest.mark.parametrize("kind", ["memory", "files"])
@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("visualglm.terminal.program", ["--query", "hello"]),
        pytest.param("visualglm.server.program", ["--port", "0"], marks=pytest.mark.slow),
        pytest.param("visualglm.web.program", ["--server_port", "PORT"], marks=pytest.mark.slow),
    ],
)
def test_a_program_without_resources_ends_with_one_line(module: str, flags: list[str], kind: str) -> None:
    flags = [str(free_port()) if flag == "PORT" else flag for flag in flags]
    program = LIMITED.format(module=module, flags=flags, kind=kind)
    done = run_preloaded(program, variables=environment(), modules=BARE)
    # The first failed allocation varies: a thread without memory for its stack cannot be started.
    words = (OUT_OF_MEMORY, OUT_OF_THREADS) if kind == "memory" else (OUT_OF_FILES,)
    assert done.stderr.splitlines()[-1] in [f"error: {each}" for each in words]
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_a_failed_allocation_during_generation_is_a_generation_error() -> None:
    with pytest.raises(GenerationError, match="memory"), translate_oom():
        torch.empty(2**46)
    with pytest.raises(RuntimeError, match="shape"), translate_oom():
        torch.zeros(2).view(3)


def test_out_of_memory_in_the_vision_encoder_is_explained(
    golden_model: VisualGLMModel, tiny_model: SatChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden_model, "encode_image", lambda pixels: torch.empty(2**46))
    model = SatChatModel(golden_model, tiny_model.tokenizer)
    conversation = Conversation(Image.new("RGB", (8, 8)))
    with pytest.raises(ResourceError):
        list(model.stream_answer(conversation, "?", DEMO))
    with pytest.raises(ResourceError):
        model.answer_batch([(conversation, "?")], DEMO)


def test_an_image_that_needs_too_much_memory_is_not_called_damaged() -> None:
    with pytest.raises(ImageError, match="memory") as caught, _translate_pillow_errors("The image", DEFAULT_LIMITS):
        np.empty(2**46)
    assert "damaged" not in str(caught.value)


def failure_of_torch() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    return caught.value


def caused_by(cause: Exception, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), OUT_OF_MEMORY),
        (failure_of_torch(), OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory."), OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OUT_OF_MEMORY),
        (OSError(errno.EMFILE, "Too many open files"), OUT_OF_FILES),
        (OSError(errno.ENFILE, "Too many open files in system"), OUT_OF_FILES),
        (Exception("I/O error: Too many open files (os error 24)"), OUT_OF_FILES),
        (RuntimeError("can't start new thread"), OUT_OF_THREADS),
        (caused_by(OSError(errno.EMFILE, "x"), VisualGLMError("It cannot be read.")), OUT_OF_FILES),
        (caused_by(MemoryError(), ImageError("It is damaged.")), OUT_OF_MEMORY),
    ],
)
def test_exhausted_resources_are_detected_in_exceptions_of_libraries(error: Exception, reason: str) -> None:
    assert str(find_resource_error(error)) == reason
    with pytest.raises(ResourceError) as caught, translate_resource_errors():
        raise error
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "error", [ValueError("memory"), OSError(errno.ENOENT, "no file"), RuntimeError("shape"), KeyError("a")]
)
def test_other_errors_are_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translate_resource_errors():
        raise error
    assert caught.value is error and find_resource_error(error) is None


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "x"), ResourceError("There is too little.")])
def test_a_request_without_resources_gets_503_and_the_next_is_served(error: Exception, caplog: Any) -> None:
    model = SteppedModel(free=True, length=2)
    with serving(model) as client:
        model.error = error
        for path, body in (("/", {"text": "a"}), ("/v1/chat/completions", completion("a"))):
            response = client.post(path, json=body)
            assert response.status_code == 503 and "Retry-After" in response.headers
            assert "Try again" in response.text
        assert any(record.exc_info for record in caplog.records)  # the traceback is in the log
        model.error = None
        assert client.post("/", json={"text": "a"}).status_code == 200
