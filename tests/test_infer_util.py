"""Programs written for the original find its helpers."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import DEMO, ImageError, chat, chat_batch, generate_input, get_infer_setting

SCENE = Path(__file__).parents[1] / "examples" / "scene.png"


def test_a_model_is_loaded_and_answers_what_was_put_together() -> None:
    network, tokenizer = get_infer_setting(name="visualglm-tiny")
    encoded = base64.encodebytes(SCENE.read_bytes()).decode()  # with line breaks
    data = generate_input("图片里有几个物体？", encoded, [("你好", "你好！")], {"temperature": 0, "unknown": 1})
    assert data["history"] == [("你好", "你好！")]
    answer, history, _ = chat(
        None,
        network,
        tokenizer,
        data["input_query"],
        history=data["history"],
        image=data["input_image"],
        **data["gen_kwargs"],
    )
    assert answer == "图片中一共有三个物体。"
    assert len(history) == 2


def test_settings_that_are_not_given_are_those_of_the_demonstrations() -> None:
    picture = Image.new("RGB", (8, 8))
    data = generate_input("q", picture, image_is_encoded=False)
    assert data["input_image"] is picture
    assert data["gen_kwargs"]["top_k"] == DEMO.top_k
    assert generate_input("q", picture, input_para={"top_k": 3}, image_is_encoded=False)["gen_kwargs"]["top_k"] == 3


def test_settings_of_numpy_and_torch_are_python_s_on_every_way_to_chat() -> None:
    network, tokenizer = get_infer_setting(name="visualglm-tiny")
    plain = {"temperature": 0, "top_k": 5, "max_length": 60}
    given = {"temperature": np.float32(0), "top_k": torch.tensor(5), "max_length": np.int64(60)}
    data = generate_input("图片里有几个物体？", SCENE.read_bytes(), [], given, image_is_encoded=False)
    question = data["input_query"]
    expected, *_ = chat(str(SCENE), network, tokenizer, question, **plain)
    assert chat(str(SCENE), network, tokenizer, question, **data["gen_kwargs"])[0] == expected
    ((answer, _),) = chat_batch([str(SCENE)], network, tokenizer, question, **given, seed=np.int64(3), rows=np.int64(2))
    assert answer == expected


@pytest.mark.parametrize("text", ["§§", "aGVsbG8=", None, 3])
def test_what_is_no_picture_is_refused(text: object) -> None:
    with pytest.raises(ImageError):
        generate_input("q", text)  # type: ignore[arg-type]
