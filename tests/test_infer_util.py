"""Programs written for the original find its helpers."""

import base64
from pathlib import Path

import pytest
from PIL import Image

from model import DEMO, ImageError, chat, generate_input, get_infer_setting

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


@pytest.mark.parametrize("text", ["§§", "aGVsbG8=", None, 3])
def test_what_is_no_picture_is_refused(text: object) -> None:
    with pytest.raises(ImageError):
        generate_input("q", text)  # type: ignore[arg-type]
