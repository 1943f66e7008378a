"""The workbench: points of both networks are read and changed, and nothing is left behind."""

import pytest
import torch

from model import CHINESE, ENGLISH, Conversation, HfChatModel, SatChatModel, SettingError, load_hf
from model.answers import greedy_config
from model.chat_model import NetworkChatModel
from model.images.preprocess import load_image
from model.inspection import Workbench
from tests.helpers.api_server import SCENE

ASKED, RED, NO_STAR = "What colour is the star?", "The star is red.", "There is no star in the picture."
LAYERS = 4


@pytest.fixture(scope="module")
def hf_model() -> HfChatModel:
    return load_hf("visualglm-tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=["sat", "hf"])
def bench(request: pytest.FixtureRequest, tiny_model: SatChatModel, hf_model: HfChatModel) -> Workbench:
    return Workbench(tiny_model if request.param == "sat" else hf_model)


@pytest.fixture(scope="module")
def scene() -> Conversation:
    return Conversation(load_image(SCENE), [], ENGLISH)


def count_hooks(model: NetworkChatModel) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.network.modules())


def test_answers_are_those_of_the_engine(bench: Workbench, scene: Conversation) -> None:
    config = greedy_config(bench.model, 64).replace(repetition_penalty=1.0)
    for conversation, question in ((scene, ASKED), (Conversation(scene.image, [], CHINESE), "描述这张图片。")):
        assert (
            bench.answer(conversation, question).text == bench.model.answer_batch([(conversation, question)], config)[0]
        )


def test_recording_all_points_changes_no_token(bench: Workbench, scene: Conversation) -> None:
    plain = bench.answer(scene, ASKED)
    with bench.trace() as trace:
        assert bench.answer(scene, ASKED) == plain
    assert tuple(trace) == bench.points
    tokens = plain.prompt_length + len(plain.token_ids)
    assert len(trace["layers.0.residual"]) == len(trace["logits"]) == tokens
    assert trace["image_embeddings"].shape == (32, trace["embeddings"].shape[1])
    assert trace["vision.1.mlp"].shape[0] == 16 * 16 + 1
    first, last = plain.image or (0, 0)
    torch.testing.assert_close(trace["embeddings"][first:last], trace["image_embeddings"])
    assert trace["logits"][plain.prompt_length - 1 :].argmax(-1)[:-1].tolist() == list(plain.token_ids)
    trace.clear()
    assert not len(trace)


def test_both_networks_have_the_same_points_and_values(
    tiny_model: SatChatModel, hf_model: HfChatModel, scene: Conversation
) -> None:
    traces = []
    for model in (tiny_model, hf_model):
        bench = Workbench(model)
        with bench.trace("image_embeddings", "qformer.*.cross_attention", "layers.*") as trace:
            bench.answer(scene, ASKED)
        traces.append(trace)
    assert tuple(traces[0]) == tuple(traces[1])
    for name in traces[0]:
        torch.testing.assert_close(traces[0][name], traces[1][name], atol=1e-3, rtol=1e-3)


def test_the_embeddings_of_another_image_give_its_answer(bench: Workbench, scene: Conversation) -> None:
    plain = Conversation(load_image(SCENE).transpose(0), [], ENGLISH)
    asked = "Where is the star?"
    answers = [bench.answer(one, asked).text for one in (scene, plain)]
    assert answers[0] != answers[1]
    with bench.trace("image_embeddings") as trace:
        bench.answer(plain, asked)
    with bench.patch("image_embeddings", trace["image_embeddings"]):
        assert bench.answer(scene, asked).text == answers[1]


def test_a_patch_can_replace_some_positions(bench: Workbench, scene: Conversation) -> None:
    image = bench.answer(scene, ASKED).image
    assert image is not None
    with bench.trace("embeddings") as trace:
        bench.answer(scene, ASKED)
    vectors = torch.zeros(32, trace["embeddings"].shape[1])
    with bench.patch("embeddings", vectors, positions=slice(*image)), bench.trace("embeddings") as changed:
        assert bench.answer(scene, ASKED).text == NO_STAR
    assert not changed["embeddings"][slice(*image)].any()
    torch.testing.assert_close(changed["embeddings"][: image[0]], trace["embeddings"][: image[0]])


def test_an_ablated_point_is_zero_or_the_given_value(bench: Workbench, scene: Conversation) -> None:
    with bench.ablate("image_embeddings"), bench.trace("image_embeddings") as trace:
        assert bench.answer(scene, ASKED).text == NO_STAR
    assert not trace["image_embeddings"].any()
    with bench.trace("layers.1.mlp") as plain:
        bench.answer(scene, ASKED)
    mean = plain["layers.1.mlp"].mean(0)
    with bench.ablate("layers.1.mlp", value=mean, positions=[0, 2]), bench.trace("layers.1.mlp") as trace:
        bench.answer(scene, ASKED)
    torch.testing.assert_close(trace["layers.1.mlp"][[0, 2]], mean.expand(2, -1))
    torch.testing.assert_close(trace["layers.1.mlp"][1], plain["layers.1.mlp"][1])


def test_steering_adds_a_vector_to_every_token(bench: Workbench, scene: Conversation) -> None:
    with bench.trace("layers.2.residual") as plain:
        answer = bench.answer(scene, ASKED, 1)
    vector = torch.linspace(0, 0.01, plain["layers.2.residual"].shape[1])
    with bench.steer("layers.2.residual", vector, 2), bench.trace("layers.2.residual") as steered:
        assert bench.answer(scene, ASKED, 1) == answer
    torch.testing.assert_close(steered["layers.2.residual"], plain["layers.2.residual"] + 2 * vector)


def test_several_vectors_steer_the_tokens_of_the_answer_alone(bench: Workbench, scene: Conversation) -> None:
    with bench.trace("layers.2.residual") as plain:
        answer = bench.answer(scene, ASKED, 4)
    size = plain["layers.2.residual"].shape[1]
    vectors = torch.stack([torch.linspace(0, 0.01, size), torch.linspace(0.01, 0, size)])
    with bench.steer("layers.2.residual", vectors, 2), bench.trace("layers.2.residual") as steered:
        assert bench.answer(scene, ASKED, 4) == answer
    first = answer.prompt_length - 1
    added = steered["layers.2.residual"] - plain["layers.2.residual"]
    expected = torch.cat([torch.zeros(first, size), 2 * vectors[:1]])
    torch.testing.assert_close(added[: first + 1], expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(
        steered["layers.2.residual"][-1] - plain["layers.2.residual"][-1], 2 * vectors[1], atol=1e-5, rtol=1e-3
    )
    with pytest.raises(SettingError, match="tokens"):
        bench.steer("image_embeddings", vectors)


def test_an_answer_may_have_any_language(bench: Workbench, scene: Conversation) -> None:
    assert bench.answer(scene, ASKED, any_language=True) == bench.answer(scene, ASKED)


def test_without_attention_to_the_image_its_content_is_unknown(bench: Workbench, scene: Conversation) -> None:
    with bench.knock_out():
        assert bench.answer(scene, ASKED).text == NO_STAR
        other = bench.answer(Conversation(torch.zeros(1, 3, 224, 224), [], ENGLISH), ASKED)
        assert other.text == NO_STAR
    with bench.knock_out(), bench.trace("logits") as hidden:
        bench.answer(scene, ASKED)
    with bench.knock_out(), bench.trace("logits") as also_hidden, bench.ablate("image_embeddings"):
        bench.answer(scene, ASKED)
    torch.testing.assert_close(hidden["logits"][-1], also_hidden["logits"][-1])
    with bench.knock_out([0]):
        assert bench.answer(scene, ASKED).text == RED


def test_the_lens_of_the_last_layer_is_the_logits(bench: Workbench, scene: Conversation) -> None:
    with bench.trace(f"layers.{LAYERS - 1}.residual", "logits") as trace:
        answer = bench.answer(scene, ASKED)
    logits = bench.lens(trace[f"layers.{LAYERS - 1}.residual"])
    torch.testing.assert_close(logits, trace["logits"].float(), atol=1e-4, rtol=1e-4)
    tokens = bench.top_tokens(logits[answer.prompt_length - 1 :], 2)
    assert len(tokens) == len(answer.token_ids) + 1
    assert tokens[0][0].strip() == "The"


def test_nothing_is_left_behind_also_after_an_exception(bench: Workbench, scene: Conversation) -> None:
    before = bench.answer(scene, ASKED)
    with (
        pytest.raises(ZeroDivisionError),
        bench.trace(),
        bench.ablate("layers.*.mlp"),
        bench.knock_out(),
        bench.steer("embeddings", torch.ones(1)),
    ):
        bench.answer(scene, ASKED, 1)
        raise ZeroDivisionError
    assert count_hooks(bench.model) == 0
    assert bench.answer(scene, ASKED) == before
    config = greedy_config(bench.model, 64).replace(repetition_penalty=1.0)
    assert bench.model.answer_batch([(scene, ASKED)], config) == [before.text]


def test_answers_of_other_threads_stay_the_same(bench: Workbench, scene: Conversation) -> None:
    config = greedy_config(bench.model, 64).replace(repetition_penalty=1.0)
    with bench.ablate("embeddings", "image_embeddings"), bench.knock_out(), bench.trace() as trace:
        assert bench.model.answer_batch([(scene, ASKED)], config) == [RED]
    assert not len(trace)


def test_what_cannot_be_inspected_is_an_error(bench: Workbench, scene: Conversation) -> None:
    with pytest.raises(SettingError, match="No point"), bench.trace("layers.99.mlp"):
        pass
    with bench.patch("image_embeddings", torch.zeros(3, 5)), pytest.raises(SettingError, match="shape"):
        bench.answer(scene, ASKED)
    assert count_hooks(bench.model) == 0
