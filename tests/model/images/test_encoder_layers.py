"""The image encoder's layers compute what its modules do, and are not used where these were changed."""

import pytest
import torch
from sat.model.base_model import BaseMixin

from model import HfChatModel, SatChatModel, load_hf, load_sat
from model.images.encoder_layers import EncoderLayers, can_run

NetworkModel = SatChatModel | HfChatModel
LOADERS = {"sat": load_sat, "hf": load_hf}


@pytest.fixture(scope="module", params=LOADERS)
def model(request: pytest.FixtureRequest) -> NetworkModel:
    return LOADERS[request.param]("visualglm-tiny", device="cpu", dtype="float32")


@pytest.mark.parametrize("batch", [1, 3])
def test_layers_compute_what_the_modules_do(model: NetworkModel, batch: int) -> None:
    network = model.engine_network
    size = network.image_size
    pixels = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
    with torch.inference_mode():
        expected, embeddings = network.encode_image(pixels), EncoderLayers(network)(pixels)
    assert can_run(network)
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_hook_in_the_encoder_is_respected(model: NetworkModel) -> None:
    network = model.engine_network
    hook = network.vision_encoder.vit.transformer.layers[0].register_forward_hook(lambda *_: None)
    try:
        assert not can_run(network)
    finally:
        hook.remove()
    assert can_run(network)


def test_a_foreign_mixin_of_the_encoder_is_respected() -> None:
    model = load_sat("visualglm-tiny", device="cpu", dtype="float32")
    model.network.vision_encoder.qformer.add_mixin("mine", BaseMixin())
    assert not can_run(model.engine_network)


def test_another_image_encoder_is_respected(model: NetworkModel, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model.engine_network
    vit = network.vision_encoder.vit
    monkeypatch.setattr(vit, "__class__", type("OwnViT", (type(vit),), {}))
    assert not can_run(network)
