"""Facts about a model are the same for both networks, and quantization changes only the bits."""

import pytest
import torch

from model import DEMO, Conversation, SatChatModel, load_hf, load_sat
from model.model_facts import ModelFacts, collect_facts, count_parameters

PARAMETERS = 7_195_136  # of visualglm-tiny


@pytest.mark.parametrize("load", [load_sat, load_hf])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_quantization_keeps_the_number_of_parameters(load: object, bits: int | None) -> None:
    model = load("visualglm-tiny", device="cpu", quant=bits)  # type: ignore[operator]
    assert model.facts == ModelFacts(PARAMETERS, "cpu", "float32", bits)


def test_shared_parameters_count_once() -> None:
    layer = torch.nn.Linear(3, 2)
    assert count_parameters(torch.nn.Sequential(layer, layer)) == 8


def test_a_network_that_is_no_module_has_no_number() -> None:
    assert collect_facts(object(), torch.device("cpu"), torch.float16) == ModelFacts(None, "cpu", "float16")


def test_the_phases_of_an_answer(tiny_model: SatChatModel) -> None:
    pixels = torch.rand(1, 3, tiny_model.image_size, tiny_model.image_size)
    for image, first in ((pixels, "image"), (None, "prompt")):
        answer = tiny_model.stream_answer(Conversation(image), "What is in the image?", DEMO)
        assert answer.phase.name == first
        next(answer)
        assert answer.phase.name == "text"
        answer.close()
