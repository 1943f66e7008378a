"""The HTTP API of the page: see `PageRoutes`. The middleware has checked host, origin and login before."""

import asyncio
import base64
import io
import json
import logging
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any
from weakref import WeakSet

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from model import CHINESE, Conversation, Language
from model.prompt import question_language

from ..local_address import client_network, is_loopback
from ..scenes import draw_scene
from .answers import AnswerSlots, AnswerTask, Question, choose_seed
from .body_reader import IMAGE_TIMEOUT_S, JSON_TIMEOUT_S, MAX_JSON_BYTES, BodyReader
from .errors import PageError, request_language, to_page_error
from .examples import EXAMPLES, EXAMPLES_FOLDER, make_preview
from .explanations import explain_answer
from .images import LIMITS, CachedImage
from .page_info import LANGUAGES
from .schemas import AnswerBody, ConversationBody, ExplanationBody, VoteBody, parse_body
from .service import PageService
from .settings import SettingsParser
from .votes import file_suffix, make_row

MAX_ANSWERS = 128  # concurrent answers of all visitors
MAX_VISITOR_ANSWERS = 16  # of one login or address
DECODE_THREADS = 8  # they only wait for child processes
SEND_TIMEOUT_S = 60.0  # until a client that does not read its answer is given up
MEGABYTE = 1024**2
SEED = re.compile(r"[0-9]{1,16}")  # of a scene
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
logger = logging.getLogger(__name__)
encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class PageRoutes:
    """The routes under /page; every visitor's requests are independent of each other.

    GET  page/info                   PageInfo, see page_info.py
    POST page/images                 an image file -> its id
    POST page/answers                a question -> a stream of JSON lines, see answers.py
    POST page/explanations           an answer -> the part of the image it relies on, see explanations.py
    POST page/votes                  a preferred and a rejected answer -> the number of votes
    GET  page/scene?seed=N           a drawn scene with true answers, for models of that world
    GET  page/client/HASH/PATH       a file of the client
    GET  page/examples/NAME          an example image, or its preview

    Args:
        service: the parts of the page.
    """

    def __init__(self, service: PageService) -> None:
        self.service = service
        self.bodies = BodyReader()
        self.slots = AnswerSlots(MAX_ANSWERS, MAX_VISITOR_ANSWERS)
        self.running: WeakSet[AnswerTask] = WeakSet()
        self.answer_threads = ThreadPoolExecutor(MAX_ANSWERS, "answer")
        self.decode_threads = ThreadPoolExecutor(DECODE_THREADS, "image")
        routes = [
            Route("/page/info", self.info),
            Route("/page/images", self.add_image, methods=["POST"]),
            Route("/page/answers", self.answer, methods=["POST"]),
            Route("/page/client/{file_hash}/{path:path}", self.client_file),
            Route("/page/examples/{name}", self.example),
        ]
        if service.features["scenes"]:
            routes.append(Route("/page/scene", self.scene))
        if service.features["explain"]:
            routes.append(Route("/page/explanations", self.explain, methods=["POST"]))
        if service.votes is not None:
            routes.append(Route("/page/votes", self.vote, methods=["POST"]))
        self.router = Router(routes, redirect_slashes=False, default=raise_not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; an error before the response has started becomes the response."""
        started = False

        async def send_noted(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.router(scope, receive, send_noted)
        except Exception as error:
            page_error = to_page_error(error)
            if not started:
                await page_error.response(request_language(scope))(scope, receive, send)

    def close(self) -> None:
        """Cancel the running answers, and stop the threads; the program would otherwise wait for the answers."""
        for task in list(self.running):
            task.cancel()
        for threads in (self.answer_threads, self.decode_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def info(self, request: Request) -> Response:
        """Return PageInfo."""
        return JSONResponse(self.service.info(request.scope["user_name"]), headers={"Cache-Control": "no-store"})

    async def add_image(self, request: Request) -> Response:
        """Decode an image file and keep it in the cache."""
        too_large = PageError("image_too_large", limit=LIMITS.max_bytes // MEGABYTE)
        async with self.bodies.read(request, LIMITS.max_bytes, IMAGE_TIMEOUT_S, too_large) as data:
            decode = partial(self.service.images.add, data)
            reply = await asyncio.get_running_loop().run_in_executor(self.decode_threads, decode)
        return JSONResponse(asdict(reply))

    async def answer(self, request: Request) -> Response:
        """Stream the answer to a question."""
        body = await self._read_json(request, AnswerBody)
        question = self._make_question(body)
        task = AnswerTask(question, self.answer_threads, self.slots.acquire(visitor_key(request)))
        self.running.add(task)
        return AnswerResponse(task, request_language(request.scope))

    async def explain(self, request: Request) -> Response:
        """Explain an answer, as one of the visitor's answers."""
        body = await self._read_json(request, ExplanationBody)
        question = self._make_question(body)
        if question.conversation.image is None:
            raise PageError("invalid_request", detail="image")
        release = self.slots.acquire(visitor_key(request))
        try:
            explainer, threads = self.service.explainer, self.answer_threads
            return JSONResponse(await explain_answer(request, question, body.answer, explainer, threads))
        finally:
            release()

    async def vote(self, request: Request) -> Response:
        """Append a vote to the file."""
        body, votes = await self._read_json(request, VoteBody), self.service.votes
        assert votes is not None  # otherwise there is no such route
        image = self._find_image(body)
        file = None if image is None else (f"{body.image}.{file_suffix(image.file)}", image.file)
        row = make_row([file[0]] if file else [], body.to_turns(), body.question, body.chosen, body.rejected)
        count = await asyncio.get_running_loop().run_in_executor(self.decode_threads, votes.append, row, file)
        return JSONResponse({"count": count})

    async def scene(self, request: Request) -> Response:
        """Draw the scene of a seed."""
        text = request.query_params.get("seed", "")
        if not SEED.fullmatch(text):
            raise PageError("invalid_request", detail="seed")
        describe = partial(describe_scene, int(text))
        drawn = await asyncio.get_running_loop().run_in_executor(self.decode_threads, describe)
        return JSONResponse(drawn, headers={"Cache-Control": "no-store"})

    async def client_file(self, request: Request) -> Response:
        """Return a file of the client."""
        response = self.service.client.respond(request, request.path_params["file_hash"], request.path_params["path"])
        if response is None:
            raise PageError("not_found")
        return response

    async def example(self, request: Request) -> Response:
        """Return an example image, or its preview."""
        name, headers = request.path_params["name"], {"Cache-Control": "public, max-age=86400"}
        for example in EXAMPLES:
            if name == example.name:
                return FileResponse(EXAMPLES_FOLDER / name, headers=headers)
            if name == example.preview_name:
                return Response(make_preview(example.name), media_type="image/webp", headers=headers)
        raise PageError("not_found")

    async def _read_json(self, request: Request, kind: Any) -> Any:
        too_large = PageError("too_large", detail=f"{MAX_JSON_BYTES:,} B")
        async with self.bodies.read(request, MAX_JSON_BYTES, JSON_TIMEOUT_S, too_large) as data:
            return parse_body(kind, data)

    def _find_image(self, body: ConversationBody) -> CachedImage | None:
        """Return the image of a request, None without one.

        Raises:
            PageError: unknown_image, the cache does not have it.
        """
        if body.image is None:
            return None
        image = self.service.images.get(body.image)
        if image is None:
            raise PageError("unknown_image")
        return image

    def _make_question(self, body: AnswerBody) -> Question:
        """Validate a question.

        Raises:
            PageError, SettingError: the model, the image or a setting is not available.
        """
        if body.model >= len(self.service.models):
            raise PageError("invalid_request", detail="model")
        model, turns, image = self.service.models[body.model], body.to_turns(), self._find_image(body)
        page_language = next((item for item in LANGUAGES if item.code == body.language), CHINESE)
        conversation = Conversation(
            None if image is None else image.resized[model.image_size],
            turns,
            question_language(body.question, page_language, turns),
        )
        config = choose_seed(SettingsParser(self.service.config).parse(body.settings))
        return Question(model, conversation, body.question, config)


def describe_scene(seed: int) -> dict[str, Any]:
    """Return a drawn scene as the client reads it."""
    drawn, file = draw_scene(seed), io.BytesIO()
    drawn.image.save(file, "PNG")
    return {
        "seed": seed,
        "image": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}",
        "questions": [asdict(question) for question in drawn.questions],
    }


async def raise_not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise the error of an unknown address."""
    raise PageError("not_found")


def visitor_key(request: Request) -> str | None:
    """Return the login or the address whose answers are limited together; None for a proxy on this machine."""
    if user := request.scope["user_name"]:
        return f"login {user}"
    address = request.client.host if request.client else ""
    return None if not address or is_loopback(address) else client_network(address)


class AnswerResponse(Response):
    """Streams the events of an answer as JSON lines; cancels it when the client disconnects.

    Args:
        task: the answer.
        language: of error messages.
    """

    media_type = "application/x-ndjson"

    def __init__(self, task: AnswerTask, language: Language) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self.task = task
        self.language = language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        listener = asyncio.create_task(self._cancel_on_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for line in self._lines():
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            logger.warning("A client did not read its answer within %.0f s", SEND_TIMEOUT_S)
        finally:
            self.task.cancel()
            listener.cancel()

    async def _cancel_on_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.task.cancel()

    async def _lines(self) -> AsyncIterator[bytes]:
        """Yield the events as lines; an error is the last one."""
        try:
            async for event in self.task.events():
                yield encode_json(event).encode() + b"\n"
        except Exception as error:
            yield encode_json({"type": "error", **to_page_error(error).to_dict(self.language)}).encode() + b"\n"
