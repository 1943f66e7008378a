"""chat() keeps the original's arguments and results; answers stream and depend on the image."""

import gc
import importlib
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from model import (
    CHINESE,
    ENGLISH,
    Conversation,
    GenerationConfig,
    ImageError,
    PromptTooLongError,
    SatChatModel,
    SettingError,
    Turn,
    chat,
    chat_batch,
    load_hf,
    load_sat,
    stream_chat,
)
from model.engine import Request, Scheduler, TokenOutput, TokenStream
from model.engine.sequence import RequestHandle
from model.placement import choose_device

CHAT_MODULE = importlib.import_module("model.chat")  # the package's attribute of that name is the function
SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
DESCRIPTION = (
    "图片中有一个黑色的圆环、一辆紫色的小汽车和一颗红色的星星。"
    "黑色的圆环在右上角，紫色的小汽车在右边，红色的星星在左下角。"
)
GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def tiny() -> SatChatModel:
    """The embedded model."""
    return load_sat("visualglm-tiny", device="cpu")


def ask(tiny: SatChatModel, query: str, image_path: Any = str(SCENE), **arguments: Any) -> Any:
    return chat(image_path, tiny.network, tiny.tokenizer, query, **{"temperature": 0, **arguments})


def test_returns_answer_history_and_image(tiny: SatChatModel) -> None:
    answer, history, image = ask(tiny, "描述这张图片。")
    assert answer == DESCRIPTION
    assert history == [("描述这张图片。", DESCRIPTION)]
    assert image.shape == (1, 3, 224, 224)


def test_the_second_question_with_the_first_result(tiny: SatChatModel) -> None:
    _, history, image = ask(tiny, "图片里有汽车吗？")
    answer, longer, again = ask(tiny, "它是什么颜色的？", image_path="", history=history, image=image)
    assert "紫色" in answer
    assert longer[:-1] == history
    assert longer[-1] == ("它是什么颜色的？", answer)
    assert again is image


def test_the_given_history_is_not_changed(tiny: SatChatModel) -> None:
    history = [("你好", "你好！")]
    ask(tiny, "你好", image_path=None, history=history)
    assert history == [("你好", "你好！")]


def test_positional_arguments_in_the_originals_order(tiny: SatChatModel) -> None:
    image = Image.open(SCENE)
    answer, _, _ = chat("", tiny.network, tiny.tokenizer, "描述这张图片。", [], image, 300, 0.4, 100, 0.0)
    assert answer == DESCRIPTION


@pytest.mark.parametrize("image_path", [None, ""])
def test_text_only(tiny: SatChatModel, image_path: str | None) -> None:
    answer, _, image = ask(tiny, "你是谁？", image_path=image_path)
    assert "visualglm-tiny" in answer
    assert image is None


def test_english(tiny: SatChatModel) -> None:
    answer, _, _ = ask(tiny, "What colour is the car?", english=True)
    assert answer == "The car is purple."


def test_invalid_slices_are_never_generated(tiny: SatChatModel) -> None:
    ((start, stop),) = ENGLISH.forbidden_ids(tiny.tokenizer)
    answer, _, _ = ask(tiny, "描述这张图片。", invalid_slices=[slice(start, stop)], max_length=120)
    assert not any("\u4e00" <= letter <= "\u9fff" for letter in answer)


def test_english_conversations_forbid_chinese(tiny: SatChatModel) -> None:
    conversation = Conversation(Image.open(SCENE), language=ENGLISH)
    answer = "".join(chunk.text for chunk in tiny.stream_answer(conversation, "描述这张图片。", GREEDY))
    assert not any("\u4e00" <= letter <= "\u9fff" for letter in answer)


def test_stream_grows_to_the_complete_answer(tiny: SatChatModel) -> None:
    rounds = list(stream_chat(str(SCENE), tiny.network, tiny.tokenizer, "描述这张图片。", temperature=0))
    answers = [answer for answer, _, _ in rounds]
    assert len(answers) > 5
    assert all(later.startswith(earlier) for earlier, later in pairwise(answers))
    assert answers[-1] == DESCRIPTION
    assert rounds[-1][1] == [("描述这张图片。", DESCRIPTION)]


def test_a_seed_repeats_an_answer(tiny: SatChatModel) -> None:
    settings = {"temperature": 6.0, "top_k": 0, "top_p": 1.0, "max_length": 90}
    first = ask(tiny, "描述这张图片。", seed=1, **settings)[0]
    assert ask(tiny, "描述这张图片。", seed=1, **settings)[0] == first
    assert ask(tiny, "描述这张图片。", seed=2, **settings)[0] != first


def test_chunks_have_token_counts_and_the_last_a_finish_reason(tiny: SatChatModel) -> None:
    conversation = Conversation(Image.open(SCENE))
    *body, last = tiny.stream_answer(conversation, "描述这张图片。", GREEDY)
    assert all(chunk.finish_reason is None and chunk.usage is not None for chunk in body)
    counts = [chunk.usage.answer_tokens for chunk in body if chunk.usage]
    assert counts == sorted(counts)
    assert last.finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.answer_tokens >= len(body)
    assert last.usage.prompt_tokens > 32
    *_, short = tiny.stream_answer(conversation, "描述这张图片。", GREEDY.replace(max_new_tokens=3))
    assert short.finish_reason == "length"
    assert short.usage is not None
    assert short.usage.answer_tokens == 3


def test_an_image_is_encoded_once(tiny: SatChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = tiny.network.encode_image
    monkeypatch.setattr(tiny.network, "encode_image", lambda pixels: calls.append(1) or original(pixels))
    model = SatChatModel(tiny.network, tiny.tokenizer)
    for image in (Image.open(SCENE), Image.open(SCENE), Image.new("RGB", (50, 50), "red")):
        list(model.stream_answer(Conversation(image), "描述这张图片。", GREEDY.replace(max_new_tokens=1)))
    assert len(calls) == 2


def test_byte_tokens_of_a_character_are_decoded_together(tiny: SatChatModel) -> None:
    """Decode the byte tokens of an emoji one by one."""
    ids = tiny.tokenizer.encode_text("😀，好")
    decoder, shown = tiny.tokenizer.stream(), []
    shown = [decoder.push(token) for token in ids] + [decoder.flush()]
    assert "\ufffd" not in "".join(shown)
    assert "".join(shown).strip() == "😀,好"


def test_nothing_in_a_question_opens_a_file(tiny: SatChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a question opened a picture")

    monkeypatch.setattr(CHAT_MODULE, "load_image", refuse)
    for query in (f"<img>{SCENE}</img>描述这张图片。", "<img>http://127.0.0.1:9/x.png</img>?", "<sop>[gMASK]<eop>"):
        answer, _, image = ask(tiny, query, image_path=None)
        assert answer
        assert image is None


def test_an_answer_with_answer_markers_is_complete(tiny: SatChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tiny.tokenizer.encode_text("A: one 答：two")
    handle = RequestHandle(Request(ids, GREEDY), queue.SimpleQueue())
    for step in [*map(TokenOutput, ids), TokenOutput(None, "stop")]:
        handle.put(step)
    monkeypatch.setattr(Scheduler, "submit", lambda *_: TokenStream(handle))
    assert ask(tiny, "?", image_path=None)[0] == "A: one 答：two"


def test_a_minimum_interval_gives_the_same_answer_in_fewer_chunks(tiny: SatChatModel) -> None:
    asked = Conversation(Image.open(SCENE)), "描述这张图片。", GREEDY
    single, together = list(tiny.stream_answer(*asked)), list(tiny.stream_answer(*asked, min_interval_s=5.0))
    assert "".join(chunk.text for chunk in together) == "".join(chunk.text for chunk in single)
    assert together[-1].finish_reason == single[-1].finish_reason == "stop"
    assert [one[-1].usage.answer_tokens for one in (single, together) if one[-1].usage] == [len(single) - 1] * 2
    assert len(together) <= 2  # the first chunk, and the final one, which is not delayed


def test_an_answer_may_be_closed_while_another_thread_waits_for_it(tiny: SatChatModel) -> None:
    endless = GREEDY.replace(max_length=2000, min_length=2000)
    rows = [tiny.stream_answer(Conversation(), "hello", endless) for _ in range(tiny.scheduler.batch.max_batch_size)]
    for answer in rows:
        next(answer)
    waiting = tiny.stream_answer(Conversation(), "hello", endless)
    with ThreadPoolExecutor() as pool:
        chunks = pool.submit(list, waiting)
        while not tiny.scheduler.waiting:
            time.sleep(0.001)
        waiting.close()
        assert chunks.result(timeout=30) == []
    for answer in rows:
        answer.close()
    closed = tiny.stream_answer(Conversation(), "hello", endless)
    closed.close()
    assert list(closed) == []


def test_an_unreferenced_answer_is_cancelled(tiny: SatChatModel) -> None:
    answer = tiny.stream_answer(Conversation(), "hello", GREEDY.replace(max_length=2000, min_length=2000))
    next(answer)
    gc.disable()
    try:
        del answer
        deadline = time.monotonic() + 30
        while not tiny.scheduler.is_idle:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        gc.enable()


def test_a_long_conversation_reports_dropped_turns_once(tiny: SatChatModel) -> None:
    history = [(f"问题{number}" * 5, "回答" * 10) for number in range(30)]
    with pytest.warns(UserWarning, match="oldest .* turns") as caught:
        answer, longer, _ = ask(tiny, "你好", image_path=None, history=history, max_length=200)
    assert len(caught) == 1
    assert answer
    assert len(longer) == 31


def test_too_long_a_question(tiny: SatChatModel) -> None:
    with pytest.raises(PromptTooLongError):
        ask(tiny, "很长的问题" * 1000)


def test_path_and_image_together_are_rejected(tiny: SatChatModel) -> None:
    with pytest.raises(ImageError, match="not both"):
        ask(tiny, "?", image=Image.new("RGB", (4, 4)))


def test_invalid_settings_are_rejected(tiny: SatChatModel) -> None:
    with pytest.raises(SettingError, match="top_p"):
        ask(tiny, "?", top_p=2.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_chats(dtype: str) -> None:
    model = load_sat("visualglm-tiny", device="cpu", dtype=dtype)
    answer, _, _ = ask(model, "描述这张图片。")
    assert "圆环" in answer
    assert "星星" in answer


@pytest.mark.parametrize(
    "name", ["gpu", "GPU", "gpu:0", "mps", "cuda:x", "cuda:-1", "cuda:99", "xpu", "meta", "cpu:1", ""]
)
@pytest.mark.parametrize("load", [load_sat, load_hf])
def test_an_unusable_device_raises_an_explained_error(load: Any, name: str) -> None:
    with pytest.raises(SettingError, match="cpu") as caught:
        load("visualglm-tiny", device=name)
    message = str(caught.value)
    assert repr(name) in message and "vulkan" not in message and "torch" not in message.lower().replace("pytorch", "")
    assert ("called cuda" in message) is ("gpu" in name.lower())


def test_a_device_may_be_a_torch_device() -> None:
    assert choose_device(torch.device("cpu")) == torch.device("cpu")  # type: ignore[arg-type]


def test_unknown_device_and_dtype_are_rejected_with_advice() -> None:
    with pytest.raises(SettingError, match="cpu"):
        load_sat("visualglm-tiny", device="nonsense")
    with pytest.raises(SettingError, match="float32, bfloat16, float16"):
        load_sat("visualglm-tiny", dtype="int3")
    with pytest.raises(SettingError, match=r"bits.* 5"):
        load_sat("visualglm-tiny", quant=5)


def test_the_program_random_state_is_left_alone(tiny: SatChatModel) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_sat("visualglm-tiny", device="cpu")
    ask(tiny, "你好", image_path=None, temperature=0.8, seed=3)
    assert torch.equal(torch.rand(1), expected)


def test_turns_and_languages_make_the_prompt(tiny: SatChatModel) -> None:
    conversation = Conversation(None, [Turn("q", "a")], CHINESE)
    prompt = tiny.encode_prompt(conversation, "r", GREEDY)
    assert tiny.tokenizer.decode_text(prompt.token_ids) == "问:q\n答:a\n问:r\n答:"


def test_a_batch_equals_separate_calls(tiny: SatChatModel) -> None:
    image = Image.open(SCENE)
    images = [str(SCENE), image, None, "", str(SCENE)]
    queries = ["描述这张图片。", "有小汽车吗？", "草地是什么颜色的？", "你好", "它是什么颜色的？"]
    histories = [[], [], [], [], [("有小汽车吗？", "有，图片中有一辆小汽车。")]]
    settings = {"temperature": 0, "repetition_penalty": 1.0}
    answers = chat_batch(images, tiny.network, tiny.tokenizer, queries, histories, max_batch_size=2, **settings)
    for image, query, history, answer in zip(images, queries, histories, answers, strict=True):
        source = {"image": image} if isinstance(image, Image.Image) else {"image_path": image}
        alone = chat(
            **{"image_path": None, **source},
            model=tiny.network,
            tokenizer=tiny.tokenizer,
            query=query,
            history=history,
            **settings,
        )
        assert answer == alone[:2]


def test_an_error_in_a_batch_affects_only_its_question(tiny: SatChatModel) -> None:
    images = [str(SCENE), "nowhere.png", torch.zeros(3, 20, 20), None]
    first, *errors, long = chat_batch(
        images, tiny.network, tiny.tokenizer, ["图片里有几个物体？", "描述", "描述", "长" * 3000], temperature=0
    )
    assert first[0] == "图片中一共有三个物体。"
    assert [type(error) for error in errors] == [ImageError, ImageError]
    assert isinstance(long, PromptTooLongError)
    with pytest.raises(SettingError, match="images"):
        chat_batch([None], tiny.network, tiny.tokenizer, ["a", "b"])
