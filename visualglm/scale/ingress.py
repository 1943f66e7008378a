"""The HTTP application as a Ray Serve deployment: the server's own application with a remote model."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from visualglm.server.app import create_app
from visualglm.server.request_log import log, set_up_logging
from visualglm.server.service import Service
from visualglm.server.settings import Settings

from .channel import Channel
from .coordinator import REPORT_INTERVAL_S, Orders, Report, get_coordinator
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
            member.close()

    app.router.lifespan_context = lifespan
    return app


class ClusterMember:
    """Connects the service of one HTTP application with the replicas and the coordinator.

    Args:
        service: the service; its model is None while no replica is running.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.channel: Channel | None = None
        self.model: RemoteChatModel | None = None
        self.source = serve.get_replica_context().replica_id.unique_id
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
        """Report to the coordinator and follow its orders; connect with the replicas as soon as there are some."""
        orders = await self.report()
        if self.model is None and orders.replicas:
            self.channel, self.model = await connect()
            log("ready")
        self.follow(orders)

    def close(self) -> None:
        """Cancel all answers that have not ended."""
        if self.channel is not None:
            self.channel.close()

    async def report(self) -> Orders:
        """Send the metrics to the coordinator; return its orders."""
        limiter = self.service.limiter
        snapshot = take_snapshot(self.service.metrics.registry)
        orders: Orders = await self.coordinator.report.remote(
            Report(self.source, snapshot, limiter.running, limiter.closing)
        )
        return orders

    def follow(self, orders: Orders) -> None:
        """Reject or accept questions, as ordered."""
        self.service.limiter.closing = orders.closing
        if orders.replicas is not None:
            self.service.model = self.model if orders.replicas else None

    async def export_metrics(self) -> bytes:
        """Return the summed metrics of all applications, or only its own metrics without a coordinator."""
        try:
            await self.report()
            return export_snapshot(await self.coordinator.metrics.remote())
        except RAY_ERRORS:
            return await self.service.export_own_metrics()


class ServedReplicas:
    """The replicas of the model's deployment.

    Args:
        handle: of the deployment.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self.handle = handle
        # Small values are faster through gRPC than as objects of Ray.
        self.stream = handle.options(stream=True, _by_reference=False).answer.remote

    def answer(self, client: str, number: int, question: bytes) -> Any:
        """Let one of the replicas answer; see `ModelReplica.answer`."""
        return self.stream(client, number, question)

    async def stop(self, client: str, number: int) -> None:
        """Stop an answer at all replicas: which of them generates it is not known here."""
        await self.handle.broadcast("stop", client, number).results_async()


async def connect() -> tuple[Channel, RemoteChatModel]:
    """Return a channel to the replicas, and a model that asks them through it."""
    handle: DeploymentHandle[Any] = serve.get_deployment_handle(MODEL_DEPLOYMENT, APPLICATION)
    facts = await handle.describe.remote()
    channel = Channel(ServedReplicas(handle))
    return channel, RemoteChatModel(channel.send, facts, RAY_ERRORS)
