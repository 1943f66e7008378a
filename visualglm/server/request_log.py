"""Record what happens to each request: the log in JSON lines, and the metrics for Prometheus."""

import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from model.command_line import escape_unprintable

# These write a line for each connection that breaks, or each time that none can be accepted.
NOISY_LOGGERS = ("uvicorn", "uvicorn.error", "asyncio")
LOGGER = logging.getLogger("visualglm.serving")
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class RequestRecord:
    """One request, as the log tells of it: neither its picture nor, unless the operator wants it, its text.

    Attributes:
        id: in the response's X-Request-Id, in errors and in each line of the log.
        status: of the response; 499 if the client left before it.
        key: which of the keys, as a number from 1; never the key.
        prompt_tokens, answer_tokens: over all answers of the request.
    """

    id: str
    method: str
    path: str
    client: str | None = None
    status: int = 499
    seconds: float = 0.0
    key: int | None = None
    streamed: bool = False
    picture: bool = False
    answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    dropped_turns: int = 0
    first_token_s: float | None = None
    finish_reasons: list[str] = field(default_factory=list)
    error: str | None = None
    text: dict[str, Any] | None = None


def choose_request_id(given: str | None) -> str:
    """Return the request's own id if it brought a decent one, else a new one."""
    return given if given and REQUEST_ID_PATTERN.fullmatch(given) else uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """Writes each record as one line of JSON.

    Args:
        with_text: whether messages of unforeseen errors, which may quote a request, are written too.
    """

    def __init__(self, with_text: bool) -> None:
        super().__init__()
        self.with_text = with_text

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line: time, level, event, and what its `details` hold."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "details", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = self._describe(record.exc_info[1])
        return escape_unprintable(json.dumps(line, ensure_ascii=False))

    def _describe(self, error: BaseException) -> str:
        frames = "".join(traceback.format_tb(error.__traceback__))
        return f"{frames}{type(error).__name__}" + (f": {error}" if self.with_text else "")


class RateLimitFilter(logging.Filter):
    """Lets few records of a logger through in a period, and tells with the next how many were left out.

    Args:
        most: records in a period.
        seconds: length of a period.
    """

    def __init__(self, most: int = 10, seconds: float = 10.0) -> None:
        super().__init__()
        self.most = most
        self.seconds = seconds
        self.started = -seconds
        self.count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written."""
        if time.monotonic() - self.started >= self.seconds:
            if self.count > self.most:
                record.details = {"left_out": self.count - self.most}
            self.started, self.count = time.monotonic(), 0
        self.count += 1
        return self.count <= self.most


def set_up_logging(with_text: bool) -> None:
    """Send our records and those of uvicorn and asyncio to the standard error, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(with_text))
    for name in (LOGGER.name, *NOISY_LOGGERS):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == LOGGER.name else logging.WARNING)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).filters = [RateLimitFilter()]


def log(event: str, level: int = logging.INFO, raised: BaseException | None = None, **details: Any) -> None:
    """Write one line to the log, with the traceback of what was raised."""
    LOGGER.log(level, event, extra={"details": details}, exc_info=raised)


def log_request(record: RequestRecord) -> None:
    """Write the line of a request that is over."""
    details = {name: value for name, value in asdict(record).items() if value}
    log("request", **details)


TIME_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
TOKEN_TIME_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
ROUTES = ("/", "/v1/chat/completions", "/v1/models", "/health", "/ready", "/metrics", "/docs", "/openapi.json")


class Metrics:
    """Counts and times of one server.

    Args:
        under_way: counts the answers that have a place.
        waiting: counts those of them that have no token yet.
        writing: counts those that are being written.
    """

    def __init__(
        self, running: Callable[[], float], waiting: Callable[[], float], generating: Callable[[], float]
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "visualglm_requests", "Requests that are over", ["path", "status"], registry=self.registry
        )
        self.tokens = Counter("visualglm_tokens", "Tokens read and written", ["kind"], registry=self.registry)
        self.seconds = self._histogram("visualglm_request_seconds", "Time of a request", TIME_BUCKETS)
        self.first = self._histogram(
            "visualglm_time_to_first_token_seconds", "From question to first token", TIME_BUCKETS
        )
        self.token = self._histogram(
            "visualglm_time_per_token_seconds", "Mean of an answer's tokens", TOKEN_TIME_BUCKETS
        )
        for name, text, count in (
            ("visualglm_answers", "Answers that have a place", running),
            ("visualglm_queue", "Answers that wait for their first token", waiting),
            ("visualglm_batch_size", "Answers that are being written", generating),
        ):
            Gauge(name, text, registry=self.registry).set_function(count)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def observe_request(self, record: RequestRecord) -> None:
        """Count a request that is over."""
        path = record.path if record.path in ROUTES else "other"  # whatever clients think up must not become labels
        self.requests.labels(path, str(record.status)).inc()
        if record.answers:
            self.seconds.observe(record.seconds)

    def count_tokens(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Count the tokens of answers that are over."""
        self.tokens.labels("prompt").inc(prompt_tokens)
        self.tokens.labels("answer").inc(answer_tokens)

    def observe_times(self, first_s: float, token_s: float | None) -> None:
        """Note how long a first token took, and those after it on the mean."""
        self.first.observe(first_s)
        if token_s is not None:
            self.token.observe(token_s)

    def export(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
