"""An HTTP server in a thread, and a model whose steps a test controls."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from model import BusyError, Conversation, GenerationConfig, StreamChunk, Usage
from model.description import Description
from visualglm.server import Settings, create_app
from visualglm.server.http_server import Server
from visualglm.server.listening import listen

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
SCENE_BASE64 = base64.b64encode(SCENE.read_bytes()).decode()
SCENE_URL = f"data:image/png;base64,{SCENE_BASE64}"
DESCRIBE = "描述这张图片。"
DESCRIPTION = (
    "图片中有一个黑色的圆环、一辆紫色的小汽车和一颗红色的星星。"
    "黑色的圆环在右上角，紫色的小汽车在右边，红色的星星在左下角。"
)


class SteppedModel:
    """Answers "a0 a1 a2 ..."; each step waits for a call of `step`.

    Args:
        free: run without waiting.
        length: steps of an answer.
    """

    def __init__(self, free: bool = False, length: int = 1000) -> None:
        self.free = free
        self.length = length
        self.may_step = threading.Semaphore(0)
        self.requests: list[tuple[Conversation, str, GenerationConfig]] = []
        self.steps = 0
        self.open = 0
        self.max_open = 0
        self.error: Exception | None = None
        self.busy_at: int | None = None
        self.lock = threading.Lock()

    def step(self, count: int = 1) -> None:
        """Allow `count` steps."""
        self.may_step.release(count)

    image_size = 224
    description = Description("scripted")

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, min_interval_s: float = 0.0
    ) -> Iterator[StreamChunk]:
        with self.lock:
            self.requests.append((conversation, question, config))
            if self.busy_at is not None and self.open >= self.busy_at:
                raise BusyError("The queue is full. Try again.")
            self.open += 1
            self.max_open = max(self.open, self.max_open)
        try:
            yield from self._chunks(min(self.length, config.max_new_tokens or self.length))
        finally:
            with self.lock:
                self.open -= 1

    def _chunks(self, length: int) -> Iterator[StreamChunk]:
        for number in range(length):
            if not self.free:
                self.may_step.acquire()
            if self.error is not None:
                raise self.error
            with self.lock:
                self.steps += 1
            usage = Usage(7, number + 1, 0, 0.1, 0.2)
            if number + 1 < length:
                yield StreamChunk(f"a{number} ", usage=usage)
            else:
                yield StreamChunk(f"a{number}", "length" if length < self.length else "stop", usage)


@contextmanager
def serving(model: Any, **changes: Any) -> Iterator[httpx.Client]:
    """Context manager: serve `model` at a free port; yield a client, whose attributes include `app` and `server`."""
    settings = Settings(**{"port": 0, "model_name": "visualglm-tiny", **changes})
    app = create_app(model, settings)
    server, sock = Server(app, settings), listen(settings)
    port = sock.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
    thread.start()
    try:
        wait_until(lambda: server.started)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            client.app, client.server, client.service, client.port = app, server, app.state.service, port
            yield client
    finally:
        if isinstance(model, SteppedModel):
            model.free = True
            model.step(10_000)
        server.should_exit = True
        thread.join()


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until a condition holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.005)


def messages(*texts: str, image: str | None = None) -> list[dict[str, Any]]:
    """Return alternating messages of user and assistant; the first one has the image."""
    request_messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    if image is not None:
        parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": texts[0]}]
        request_messages[0]["content"] = parts
    return request_messages


def completion(*texts: str, image: str | None = None, **more: Any) -> dict[str, Any]:
    """Return the body of a request for a completion."""
    return {"model": "visualglm-tiny", "messages": messages(*texts, image=image), "temperature": 0, **more}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the JSON of a stream's events, without the final [DONE]."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]
