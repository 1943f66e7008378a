"""Have the questions of an evaluation answered by a server of OpenAI's chat completions."""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visualglm.batch.record import FORMAT
from visualglm.batch.tasks import Result, Settings, Task
from visualglm.batch.work import map_ahead

from .errors import EvaluationError

CONCURRENCY = 16  # requests at the same time
TIMEOUT_S = 600.0
BUSY = (429, 503)  # the server asks to try again later
ATTEMPTS, MAX_WAIT_S = 20, 30.0
SENT = ("temperature", "top_p", "seed")  # sampling parameters of the protocol
TOP_LOGPROBS = 20  # of the first token, among which the letters of options are looked up
CHOICE_TOKENS = " .:)("  # stripped from a token to get the letter of an option
SIGNATURES = {b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}  # others are taken for JPEG


class ServerBackend:
    """Answers tasks by requests to a server, several at the same time.

    Args:
        url: address of the server, with or without /v1.
        model: name of the model there; None for the first one that the server lists.
        api_key: key of the server; None for none.
        concurrency: maximum number of requests at the same time.

    Raises:
        EvaluationError: the server does not answer, or lists no model.
    """

    def __init__(self, url: str, model: str | None, api_key: str | None, concurrency: int | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self.headers = {"Content-Type": "application/json"}
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"
        self.concurrency = concurrency or CONCURRENCY
        self.knows_logprobs = True
        self.model = model or self._first_model()

    def make_record(self, settings: Settings, questions: Any) -> dict[str, Any]:
        """Return the record of a run: all that its answers depend on, as far as a client can know it."""
        unknown = dict.fromkeys(("program", "precision", "language", "columns", "input"))
        known = {"format": FORMAT, "model": f"{self.model} at {self.url}", "questions": questions}
        return {**unknown, **known, "sampling": dict(settings.sampling)}

    def __call__(self, settings: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
        """Answer tasks with the sampling parameters of the settings; see `visualglm.batch.tasks.Backend`."""
        self.sampling = settings.sampling
        yield from map_ahead(self.answer, tasks, self.concurrency, self.concurrency)

    def answer(self, task: Task) -> Result:
        """Return the answer to the question of a task, or the server's error.

        Raises:
            EvaluationError: the server cannot be reached, or is busy for too long.
        """
        body = self._body(task)
        light = replace(task, image=None) if isinstance(task.image, bytes) else task
        try:
            reply = self._complete(body)
        except urllib.error.HTTPError as error:
            return Result(light, 1, error=f"The server refuses the question: {describe(error)}")
        (choice, *_), usage = reply["choices"], reply.get("usage") or {}
        tokens = (choice.get("logprobs") or {}).get("content") or []
        return Result(
            light,
            1,
            choice["message"]["content"] or "",
            choice.get("finish_reason") or "",
            usage.get("prompt_tokens", 0),
            usage.get("completion_tokens", 0),
            logprob=sum(token["logprob"] for token in tokens) if tokens else None,
            choice_logprobs=find_choices(tokens[0], task.choices) if tokens else (),
        )

    def _body(self, task: Task) -> dict[str, Any]:
        """Return the body of a request."""
        text: Any = task.questions[1]
        if task.image is not None:
            image = {"type": "image_url", "image_url": {"url": to_data_url(task.image)}}
            text = [image, {"type": "text", "text": text}]
        messages = [
            {"role": role, "content": content}
            for turn in task.history
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        body = {
            "model": self.model,
            "messages": [*messages, {"role": "user", "content": text}],
            "max_tokens": self.sampling["max_new_tokens"],
            **{name: self.sampling[name] for name in SENT if name in self.sampling},
        }
        if self.knows_logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS if task.choices else 0}
        return body

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the completion; without log-probabilities if the server has none."""
        try:
            return self._send("chat/completions", body)
        except urllib.error.HTTPError as error:
            if error.code != 400 or "logprobs" not in body:
                raise
        self.knows_logprobs = False
        return self._send("chat/completions", {name: body[name] for name in body if "logprobs" not in name})

    def _send(self, path: str, body: Any = None) -> dict[str, Any]:
        """Send a request, again while the server is busy; return the JSON of the response.

        Raises:
            HTTPError: the server refuses the request.
            EvaluationError: it cannot be reached, or is busy for too long.
        """
        data = None if body is None else json.dumps(body).encode()
        for _ in range(ATTEMPTS):
            request = urllib.request.Request(f"{self.url}/{path}", data, self.headers)
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                    content: dict[str, Any] = json.load(response)
                    return content
            except urllib.error.HTTPError as error:
                if error.code not in BUSY:
                    raise
                time.sleep(min(MAX_WAIT_S, float(error.headers.get("Retry-After") or 1)))
            except (OSError, ValueError) as error:
                raise EvaluationError(
                    f"The server at {self.url} does not answer ({error}). Check --server, and start it again. The "
                    "same command then goes on."
                ) from error
        raise EvaluationError(f"The server at {self.url} is busy. Lower --max-batch, or try again later.")

    def _first_model(self) -> str:
        try:
            models = self._send("models")["data"]
            return str(models[0]["id"])
        except (urllib.error.HTTPError, LookupError, TypeError) as error:
            reason = describe(error) if isinstance(error, urllib.error.HTTPError) else "it lists none"
            raise EvaluationError(f"The models of {self.url} cannot be listed: {reason}. Name one as MODEL.") from error


def describe(error: urllib.error.HTTPError) -> str:
    """Return the message of an error response, or its status."""
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, LookupError, TypeError, OSError):
        return f"status {error.code}"


def to_data_url(image: str | bytes) -> str:
    """Return an image as a data URL: the content of a file, or of the file at a path; URLs are returned unchanged."""
    if isinstance(image, str) and image.startswith(("http://", "https://", "data:")):
        return image
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    kind = next((kind for signature, kind in SIGNATURES.items() if content.startswith(signature)), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def find_choices(token: Mapping[str, Any], choices: Sequence[str]) -> list[float]:
    """Return the log-probability of each option's letter as the first token; none if a letter is not among the top."""
    found: dict[str, float] = {}
    for one in token.get("top_logprobs") or []:
        letter = one["token"].strip(CHOICE_TOKENS)
        found[letter] = max(found.get(letter, one["logprob"]), one["logprob"])
    return [found[choice] for choice in choices] if all(choice in found for choice in choices) else []
