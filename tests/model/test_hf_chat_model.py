"""The Hugging Face chat model gives the same answers as the SAT chat model."""

import shutil
import time
from pathlib import Path

import pytest
import torch

from model import (
    CHINESE,
    ENGLISH,
    Conversation,
    GenerationConfig,
    HfChatModel,
    PromptTooLongError,
    SatChatModel,
    StreamChunk,
    Turn,
    load_hf,
    load_sat,
)
from model.checkpoint import find_vocabulary, open_checkpoint, save_sat
from model.checkpoint.resolve import VOCABULARY_NAME
from model.images.preprocess import load_image
from tests.helpers.cli_program import DESCRIBED_ZH, ROOT, SCENE, run_program

GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0)
WILD = GREEDY.replace(temperature=8.0, top_k=0, top_p=1.0, max_length=90)


@pytest.fixture(scope="module")
def hf_model() -> HfChatModel:
    return load_hf("visualglm-tiny", device="cpu")


@pytest.fixture(scope="module")
def sat() -> SatChatModel:
    return load_sat("visualglm-tiny", device="cpu")


def ask(
    model: HfChatModel | SatChatModel, question: str, config: GenerationConfig, *, language: object = CHINESE
) -> list[StreamChunk]:
    conversation = Conversation(load_image(SCENE), [Turn("有小汽车吗？", "有，图片中有一辆小汽车。")], language)
    return list(model.stream_answer(conversation, question, config))


def text_of(chunks: list[StreamChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize(
    ("question", "language"),
    [("描述这张图片。", CHINESE), ("它是什么颜色的？", CHINESE), ("Where is the star?", ENGLISH)],
)
def test_both_networks_give_the_same_answers(
    hf_model: HfChatModel, sat: SatChatModel, question: str, language: object
) -> None:
    mine, other = (ask(model, question, GREEDY, language=language) for model in (hf_model, sat))
    assert text_of(mine) == text_of(other) != ""
    assert (mine[-1].finish_reason, other[-1].finish_reason) == ("stop", "stop")
    assert mine[-1].usage is not None and other[-1].usage is not None
    assert mine[-1].usage.prompt_tokens == other[-1].usage.prompt_tokens
    assert mine[-1].usage.answer_tokens == other[-1].usage.answer_tokens


def test_a_seed_repeats_an_answer_and_leaves_torch_s_state(hf_model: HfChatModel) -> None:
    before = torch.get_rng_state()
    first = text_of(ask(hf_model, "描述这张图片。", WILD.replace(seed=1)))
    assert text_of(ask(hf_model, "描述这张图片。", WILD.replace(seed=1))) == first
    assert text_of(ask(hf_model, "描述这张图片。", WILD.replace(seed=2))) != first
    assert torch.equal(torch.get_rng_state(), before)


def test_an_english_dialogue_has_no_chinese_tokens(hf_model: HfChatModel) -> None:
    answers = [text_of(ask(hf_model, "Describe it.", WILD.replace(seed=seed), language=ENGLISH)) for seed in range(3)]
    assert all(not any("\u4e00" <= letter <= "\u9fff" for letter in answer) for answer in answers)


def test_limits_end_an_answer(hf_model: HfChatModel) -> None:
    chunks = ask(hf_model, "描述这张图片。", GREEDY.replace(max_new_tokens=3))
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.answer_tokens == 3
    with pytest.raises(PromptTooLongError):
        ask(hf_model, "描述这张图片。" * 400, GREEDY)


def test_closing_the_answer_stops_the_model(hf_model: HfChatModel) -> None:
    config = GenerationConfig(min_length=1900, max_length=2000, temperature=0)
    steps = list[None]()
    with hf_model.network.transformer.layers[0].register_forward_pre_hook(lambda *_: steps.append(None)):
        answer = hf_model.stream_answer(Conversation(), "你好", config)
        next(answer)
        answer.close()
        while not hf_model.scheduler.is_idle:
            assert len(steps) < 1000
            time.sleep(0.001)
    assert 0 < len(steps) < 1000


def test_a_sat_directory_answers_the_same(tmp_path: Path, hf_model: HfChatModel) -> None:
    checkpoint = open_checkpoint("visualglm-tiny")
    save_sat(tmp_path / "tiny", dict(checkpoint.tensors()), checkpoint.config)
    shutil.copy(find_vocabulary("visualglm-tiny") / VOCABULARY_NAME, tmp_path / "tiny")
    model = load_hf(tmp_path / "tiny", device="cpu")
    ours, theirs = model.network.state_dict(), hf_model.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_still_describe_the_image(bits: int) -> None:
    model = load_hf("visualglm-tiny", device="cpu", quant=bits)
    assert text_of(ask(model, "图片里有几个物体？", GREEDY)) == "图片中一共有三个物体。"


def test_the_program_chats() -> None:
    program = [str(ROOT / "cli_demo_hf.py"), "--from_pretrained", "visualglm-tiny", "--device", "cpu"]
    typed = b"What colour is the star?\n3+4?\nstop\n"
    done = run_program([*program, "--temperature", "0", "--image", SCENE], typed=typed, LANG="zh_CN.UTF-8")
    assert done.returncode == 0, done.stderr.decode()
    described, star, sum_, _ = done.stdout.decode().split("用户：")
    assert DESCRIBED_ZH in described
    assert "The star is red." in star
    assert sum_.partition("：")[2].isascii()
    assert "Loading weights" not in done.stderr.decode()
