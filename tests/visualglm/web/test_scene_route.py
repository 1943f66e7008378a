"""The page draws random scenes with true answers, for models that know the drawn world."""

import asyncio
import base64
import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from model import DEMO, SatChatModel
from tests.helpers.api_server import SteppedModel
from visualglm.scenes import draw_scene
from visualglm.web.routes import PageRoutes
from visualglm.web.service import PageService


def get(routes: PageRoutes, address: str) -> httpx.Response:
    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(routes), base_url="http://page") as client:
            return await client.get(address)

    return asyncio.run(request())


@pytest.fixture
def routes(tiny_model: SatChatModel) -> Iterator[PageRoutes]:
    routes = PageRoutes(PageService(tiny_model, DEMO))
    yield routes
    routes.close()
    routes.service.images.close()


def test_a_scene_is_that_of_its_seed(routes: PageRoutes) -> None:
    assert routes.service.info(None)["features"]["scenes"]
    scene = get(routes, "/page/scene?seed=7").json()
    drawn = draw_scene(7)
    assert scene["seed"] == 7
    data = base64.b64decode(scene["image"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.tobytes() == drawn.image.tobytes()
    assert scene["questions"] == [{"question": each.question, "answer": each.answer} for each in drawn.questions]


@pytest.mark.parametrize("seed", ["", "?seed=", "?seed=-1", "?seed=x", "?seed=1.5", "?seed=" + "9" * 5000])
def test_a_seed_that_is_no_number_is_rejected(seed: str, routes: PageRoutes) -> None:
    response = get(routes, f"/page/scene{seed}")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"


def test_a_model_of_photographs_has_no_scenes() -> None:
    routes = PageRoutes(PageService(SteppedModel(), DEMO))
    assert not routes.service.info(None)["features"]["scenes"]
    assert get(routes, "/page/scene?seed=7").status_code == 404
    routes.close()
    routes.service.images.close()
