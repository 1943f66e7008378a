"""Explanations of answers: the map lies on the thing asked about, both networks agree, and nothing is left behind."""

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch

from model import (
    CHINESE,
    ENGLISH,
    Conversation,
    Explanation,
    HfChatModel,
    ImageError,
    Language,
    QuestionError,
    SatChatModel,
    Turn,
    explain,
    load_hf,
)
from model.attribution import around, cover, find_peaks, keep_tensors, weight_peaks
from model.explain import explain_answer
from model.images.preprocess import load_image
from tests.helpers.api_server import SCENE
from visualglm.scenes.scene import Scene, Thing, render_scene

ASKED = "What colour is the star?"
# Things of examples/scene.png: where they are, in fractions of width and height, and a radius with half a patch more.
STAR, CAR = (0.20, 0.78), (0.81, 0.44)
NEAR = 0.14


@pytest.fixture(scope="module")
def hf_model() -> HfChatModel:
    return load_hf("visualglm-tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def explanation(tiny_model: SatChatModel) -> Explanation:
    return explain(str(SCENE), tiny_model.network, tiny_model.tokenizer, ASKED, english=True)


def about_the_scene(language: Language, *turns: Turn) -> Conversation:
    return Conversation(load_image(SCENE), list(turns), language)


def is_near(found: tuple[float, float] | None, thing: tuple[float, float]) -> bool:
    return found is not None and math.dist(found, thing) < NEAR


def peak_of(grid: np.ndarray) -> tuple[float, float] | None:
    """Return the x and y of the highest patch of a token's map; None without a map."""
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    return ((column + 0.5) / 16, (row + 0.5) / 16) if grid.any() else None


@pytest.mark.parametrize(
    ("language", "question", "thing"),
    [
        (ENGLISH, ASKED, STAR),
        (ENGLISH, "What colour is the car?", CAR),
        (CHINESE, "星星是什么颜色？", STAR),
        (CHINESE, "有没有汽车？", CAR),
    ],
)
def test_the_map_is_highest_on_the_thing_asked_about(
    tiny_model: SatChatModel, language: Language, question: str, thing: tuple[float, float]
) -> None:
    explanation = explain_answer(tiny_model, about_the_scene(language), question)
    assert is_near(explanation.peak, thing), (explanation.answer, explanation.peak)
    assert explanation.map.max() == 1
    assert explanation.reliance > 1


def test_an_answer_that_no_part_of_the_image_decides_has_no_map(tiny_model: SatChatModel) -> None:
    explanation = explain_answer(tiny_model, about_the_scene(ENGLISH), "Is there a fish?")
    assert explanation.answer.startswith("No")
    assert explanation.peak is None
    assert not explanation.map.any()
    assert not explanation.token_maps.any()


def test_each_token_has_a_map_and_its_reliance(explanation: Explanation) -> None:
    count = len(explanation.tokens)
    assert "".join(token.text for token in explanation.tokens).strip() == explanation.answer
    assert explanation.token_maps.shape == (count, *explanation.map.shape)
    assert explanation.token_reliance.shape == (count,)
    assert explanation.map.dtype == explanation.token_maps.dtype == np.float32
    [red] = [number for number, token in enumerate(explanation.tokens) if "red" in token.text]
    assert is_near(peak_of(explanation.token_maps[red]), STAR)
    assert explanation.token_reliance[red] > 1


def test_a_token_that_no_covered_part_decides_has_no_map(tiny_model: SatChatModel) -> None:
    described = explain_answer(tiny_model, about_the_scene(CHINESE), "描述这张图片。")
    by_text = dict(zip((token.text for token in described.tokens), described.token_maps, strict=True))
    assert described.peak is not None
    assert by_text["一辆"].any()
    assert not by_text["小汽车"].any()


def test_a_given_answer_is_explained_with_its_history(tiny_model: SatChatModel) -> None:
    history = [("How many objects are there?", "There are three objects.")]
    network, tokenizer = tiny_model.network, tiny_model.tokenizer
    given = explain(str(SCENE), network, tokenizer, ASKED, history, english=True, answer="The star is red.")
    assert given.answer == "The star is red."
    assert is_near(given.peak, STAR)
    false = explain(str(SCENE), network, tokenizer, ASKED, history, english=True, answer="The star is blue.")
    assert false.token_reliance.sum() < given.token_reliance.sum()


def test_both_networks_give_the_same_maps(hf_model: HfChatModel, explanation: Explanation) -> None:
    other = explain_answer(hf_model, about_the_scene(ENGLISH), ASKED)
    assert other.answer == explanation.answer
    np.testing.assert_allclose(other.map, explanation.map, atol=1e-4)
    np.testing.assert_allclose(other.token_maps, explanation.token_maps, atol=1e-4)
    np.testing.assert_allclose(other.token_reliance, explanation.token_reliance, atol=1e-2)


def test_the_transformers_model_explains_by_itself(hf_model: HfChatModel, explanation: Explanation) -> None:
    network, tokenizer = hf_model.network, hf_model.tokenizer
    other = network.explain(tokenizer, str(SCENE), ASKED, english=True)
    assert other.answer == explanation.answer
    assert [token.text.strip() for token in other.tokens] == [token.text.strip() for token in explanation.tokens]
    np.testing.assert_allclose([t.logprob for t in other.tokens], [t.logprob for t in explanation.tokens], atol=1e-3)
    np.testing.assert_allclose(other.map, explanation.map, atol=1e-4)
    np.testing.assert_allclose(other.token_maps, explanation.token_maps, atol=1e-4)
    with pytest.raises(ImageError, match="no image"):
        network.explain(tokenizer, None, ASKED)
    with pytest.raises(QuestionError, match="empty"):
        network.explain(tokenizer, str(SCENE), ASKED, answer="")


def test_the_overlay_is_bright_on_the_thing_and_has_the_size_of_the_image(explanation: Explanation) -> None:
    overlay = explanation.overlay()
    assert overlay.size == explanation.image.size
    width, height = overlay.size
    star, car = ((int(x * width), int(y * height)) for x, y in (STAR, CAR))
    brightness = [sum(overlay.getpixel(at)) / sum(explanation.image.getpixel(at)) for at in (star, car)]  # type: ignore[arg-type]
    assert brightness[0] > 0.9
    assert brightness[1] < 0.4
    assert explanation.overlay(0).size == overlay.size


def test_pixels_are_explained_as_their_image(tiny_model: SatChatModel, explanation: Explanation) -> None:
    pixels = tiny_model.image_cache.to_pixels(load_image(SCENE))
    network, tokenizer = tiny_model.network, tiny_model.tokenizer
    other = explain(None, network, tokenizer, ASKED, image=pixels, english=True)
    np.testing.assert_array_equal(other.map, explanation.map)
    assert other.image.size == (tiny_model.image_size, tiny_model.image_size)


def test_an_explanation_leaves_no_hook_and_no_gradient(tiny_model: SatChatModel, explanation: Explanation) -> None:
    modules = [*tiny_model.network.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert all(parameter.grad is None for parameter in tiny_model.network.parameters())


def test_hooks_of_the_network_see_the_passes(tiny_model: SatChatModel, explanation: Explanation) -> None:
    network: Any = tiny_model.network
    seen: list[int] = []
    hook = network.transformer.register_forward_hook(lambda module, inputs, output: seen.append(1))
    try:
        other = explain(str(SCENE), network, tiny_model.tokenizer, ASKED, english=True, answer=explanation.answer)
    finally:
        hook.remove()
    assert seen
    np.testing.assert_allclose(other.map, explanation.map, atol=1e-4)
    np.testing.assert_allclose(other.token_reliance, explanation.token_reliance, atol=1e-2)


def test_images_that_other_threads_encode_are_not_recorded(tiny_model: SatChatModel) -> None:
    encoder: Any = tiny_model.network.vision_encoder
    pixels = torch.zeros(1, 3, tiny_model.image_size, tiny_model.image_size)
    tensors: dict[str, torch.Tensor] = {}
    hooks = keep_tensors(encoder.qformer.transformer.layers[0].cross_attention, tensors)
    with torch.no_grad():
        other = threading.Thread(target=tiny_model.network.encode_image, args=(pixels,))
        other.start()
        other.join()
        assert not tensors
        tiny_model.network.encode_image(pixels)
    assert tensors.keys() == {"query", "key_value", "context"}
    for hook in hooks:
        hook.remove()


def test_what_cannot_be_explained_is_an_error(tiny_model: SatChatModel) -> None:
    network, tokenizer = tiny_model.network, tiny_model.tokenizer
    with pytest.raises(ImageError, match="no image"):
        explain(None, network, tokenizer, ASKED)
    with pytest.raises(ImageError, match="not both"):
        explain(str(SCENE), network, tokenizer, ASKED, image=load_image(SCENE))
    with pytest.raises(QuestionError, match="empty"):
        explain(str(SCENE), network, tokenizer, ASKED, answer="")


def test_peaks_are_apart_and_largest_first() -> None:
    grid = torch.zeros(8, 8)
    grid[1, 1], grid[1, 2], grid[6, 6], grid[0, 7] = 4.0, 3.5, 3.0, 2.0
    assert find_peaks(grid, 1, 3) == [(1, 1), (6, 6), (0, 7)]
    assert len(find_peaks(torch.ones(2, 2), 1, 3)) == 1


def test_a_peak_weighs_its_drop_whatever_its_relevance() -> None:
    relevance = torch.full((8, 8), 0.01)
    relevance[1, 1], relevance[1, 2], relevance[6, 6] = 1.0, 0.25, 0.04
    grid = weight_peaks(relevance, [(1, 1), (6, 6)], 1, torch.tensor([2.0, 3.0]))
    assert grid[1, 1] == pytest.approx(2.0)
    assert grid[6, 6] == pytest.approx(3.0)
    assert 0 < grid[1, 2] < 1.0


def test_a_description_has_a_peak_for_each_of_five_things(tiny_model: SatChatModel) -> None:
    places = [(0.2, 0.2), (0.8, 0.2), (0.5, 0.5), (0.2, 0.8), (0.8, 0.8)]
    kinds = [("ball", "red"), ("star", "blue"), ("heart", "green"), ("box", "yellow"), ("fish", "purple")]
    things = tuple(Thing(kind, color, "medium", *place) for (kind, color), place in zip(kinds, places, strict=True))
    conversation = Conversation(render_scene(Scene("snow", things, 1), 448), [], ENGLISH)
    answer = "The picture shows a red ball, a blue star, a green heart, a yellow box and a purple fish."
    described = explain_answer(tiny_model, conversation, "Describe the image.", answer)
    near = [place for place in places if any(is_near(peak_of(grid), place) for grid in described.token_maps)]
    assert len(near) > 3


def test_covering_changes_the_square_alone() -> None:
    pixels = torch.rand(1, 3, 32, 32)
    covered = cover(pixels, 16, (0, 8), 2)
    changed = (covered != pixels).any(1)[0]
    assert changed[: 3 * 2, 6 * 2 : 11 * 2].all()
    assert changed.sum() == 3 * 2 * 5 * 2
    assert around(0, 2) == slice(0, 3)
