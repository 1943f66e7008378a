"""The HTTP application in front of the replicas: the server's own application with a remote model."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from visualglm.server.app import create_app
from visualglm.server.request_log import log, set_up_logging
from visualglm.server.service import Service
from visualglm.server.settings import Settings

from .channel import Channel
from .coordinator import REPORT_INTERVAL_S, Report, get_coordinator
from .metrics import export_snapshot, take_snapshot
from .names import APPLICATION, MODEL_DEPLOYMENT
from .remote_model import RemoteChatModel

RAY_ERRORS = (RayError, RayServeException)


def build_ingress(settings: Settings) -> FastAPI:
    """Return the application; its model is set as soon as a replica has described it."""
    set_up_logging(settings.log_text)
    app = create_app(None, settings)
    run = app.router.lifespan_context
    member = ClusterMember(app.state.service)

    @asynccontextmanager
    async def lifespan(scope: Any) -> AsyncIterator[None]:
        async with run(scope):
            with suppress(*RAY_ERRORS):
                await member.update()  # if replicas are running, requests must find the model from the start
            reporting = asyncio.create_task(member.run())
            yield
            reporting.cancel()
            with suppress(*RAY_ERRORS):
                await member.report()  # counters that the coordinator keeps

    app.router.lifespan_context = lifespan
    return app


class ClusterMember:
    """Connects the service of one HTTP application with the replicas and the coordinator.

    Args:
        service: the service; its model is None while no replica is running.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.model: RemoteChatModel | None = None
        self.source = uuid.uuid4().hex
        self.coordinator = get_coordinator()
        service.export_metrics = self.export_metrics

    async def run(self) -> None:
        """Report to the coordinator until the application stops."""
        self.service.images.decoder.warm_up()
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            try:
                await self.update()
            except RAY_ERRORS as error:
                log("no coordinator", logging.WARNING, reason=type(error).__name__)

    async def update(self) -> None:
        """Report to the coordinator; connect with the first replicas, and accept questions while there are some."""
        replicas = await self.report()
        if self.model is None and replicas:
            self.model = await connect()
            log("ready")
        if replicas is not None:
            self.service.model = self.model if replicas else None

    async def report(self) -> int | None:
        """Send the metrics to the coordinator; return the number of replicas, None if it is unknown."""
        snapshot = take_snapshot(self.service.metrics.registry)
        replicas: int | None = await self.coordinator.report.remote(Report(self.source, snapshot))
        return replicas

    async def export_metrics(self) -> bytes:
        """Return the summed metrics of all applications, or only its own metrics without a coordinator."""
        try:
            await self.report()
            return export_snapshot(await self.coordinator.metrics.remote())
        except RAY_ERRORS:
            return await self.service.export_own_metrics()


class ServedReplicas:
    """The replicas of the model's deployment, for use in the event loop of a channel."""

    def __init__(self) -> None:
        self.handle: DeploymentHandle[Any] = DeploymentHandle(MODEL_DEPLOYMENT, APPLICATION)
        self.stream: Callable[[str, int, bytes], Any]
        self.request: Callable[[bytes], Any]

    async def open(self) -> dict[str, Any]:
        """Let Ray Serve route calls in this event loop; return the attributes that a `RemoteChatModel` shows."""
        self.handle._init(_run_router_in_separate_loop=False)  # by default, each message passes through another thread
        # Small values are faster through gRPC than as objects of Ray.
        self.stream = self.handle.options(stream=True, _by_reference=False).answer.remote
        self.request = self.handle.options(_by_reference=False).explain.remote
        facts: dict[str, Any] = await self.handle.describe.remote()
        return facts

    def answer(self, client: str, number: int, question: bytes) -> Any:
        """Let one of the replicas answer; see `ModelReplica.answer`."""
        return self.stream(client, number, question)

    async def stop(self, client: str, number: int) -> None:
        """Stop an answer at all replicas: which of them generates it is not known here."""
        await self.handle.broadcast("stop", client, number).results_async()

    async def explain(self, answer: bytes) -> bytes:
        """Let one of the replicas explain an answer; see `ModelReplica.explain`."""
        response = self.request(answer)
        try:
            explanation: bytes = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        return explanation


async def connect() -> RemoteChatModel:
    """Return a model that asks the replicas through a channel of its own.

    The channel stays open until the process ends: Ray Serve sends updates to its event loop.
    """
    replicas = ServedReplicas()
    channel = Channel(replicas)
    try:
        facts = await channel.run(replicas.open())
    except BaseException:
        channel.close()
        raise
    return RemoteChatModel(channel.send, channel.explain, facts, RAY_ERRORS)
