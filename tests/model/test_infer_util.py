"""The helpers that programs for the original import work unchanged."""

import base64
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import DEMO, ImageError, chat, chat_batch, generate_input, get_infer_setting, process_image
from model.checkpoint.convert import convert
from model.images.preprocess import load_image
from tests.helpers.preloaded import BARE, run_forked

ROOT = Path(__file__).parents[2]
SCENE = ROOT / "examples" / "scene.png"
# How the original's api_hf.py handles a request.
SERVER = """
import base64, os, sys
import torch
from transformers import AutoModel, AutoTokenizer
from model import process_image
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
encoded = str(base64.b64encode(open(sys.argv[2], "rb").read()), encoding="utf-8")
image_path, kept = process_image(encoded), process_image(encoded)
with torch.no_grad():
    answer = model.stream_chat(tokenizer, image_path, "图片里有几个物体？", history=[], do_sample=False, min_length=0)
for response, history in answer:
    pass
os.remove(image_path)
print(kept)
print(response)
"""


def test_a_model_is_loaded_and_answers_a_built_input() -> None:
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


def test_missing_settings_are_those_of_the_demos() -> None:
    image = Image.new("RGB", (8, 8))
    data = generate_input("q", image, image_is_encoded=False)
    assert data["input_image"] is image
    assert data["gen_kwargs"]["top_k"] == DEMO.top_k
    assert generate_input("q", image, input_para={"top_k": 3}, image_is_encoded=False)["gen_kwargs"]["top_k"] == 3


def test_settings_of_numpy_and_torch_are_python_s_on_every_way_to_chat() -> None:
    network, tokenizer = get_infer_setting(name="visualglm-tiny")
    plain = {"temperature": 0, "top_k": 5, "max_length": 60}
    given = {"temperature": np.float32(0), "top_k": torch.tensor(5), "max_length": np.int64(60)}
    data = generate_input("图片里有几个物体？", SCENE.read_bytes(), [], given, image_is_encoded=False)
    question = data["input_query"]
    expected, *_ = chat(str(SCENE), network, tokenizer, question, **plain)
    assert chat(str(SCENE), network, tokenizer, question, **data["gen_kwargs"])[0] == expected
    ((answer, _),) = chat_batch(
        [str(SCENE)], network, tokenizer, question, **given, seed=np.int64(3), max_batch_size=np.int64(2)
    )
    assert answer == expected


@pytest.mark.parametrize("text", ["§§", "aGVsbG8=", None, 3])
def test_invalid_images_are_rejected(text: object) -> None:
    with pytest.raises(ImageError):
        generate_input("q", text)  # type: ignore[arg-type]


def test_an_encoded_image_becomes_a_file_of_its_own() -> None:
    encoded = base64.b64encode(SCENE.read_bytes())
    paths = [process_image(encoded), process_image(encoded.decode())]
    assert len(set(paths)) == 2
    for path in paths:
        assert isinstance(path, str)
        assert Path(path).is_absolute()
        assert Path(path).parent.stat().st_mode & 0o077 == 0
        assert load_image(path).tobytes() == load_image(SCENE).tobytes()
    Path(paths[0]).unlink()
    assert Path(paths[1]).is_file()


def test_a_temporary_directory_that_was_cleaned_is_created_again() -> None:
    encoded = base64.b64encode(SCENE.read_bytes())
    path = Path(process_image(encoded))
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    assert Path(process_image(encoded)).is_file()


@pytest.mark.parametrize("text", ["§§", "aGVsbG8=", "../examples/scene.png", None, 3])
def test_no_file_is_written_for_invalid_images(text: object) -> None:
    folder = Path(process_image(base64.b64encode(SCENE.read_bytes()))).parent
    before = set(folder.iterdir())
    with pytest.raises(ImageError):
        process_image(text)  # type: ignore[arg-type]
    assert set(folder.iterdir()) == before


def test_the_program_of_the_original_answers_and_leaves_no_file(tmp_path: Path) -> None:
    convert("visualglm-tiny", tmp_path / "tiny", "hf")
    done = run_forked(
        ["-c", SERVER, "tiny", str(SCENE)],
        modules=BARE,
        paths=(ROOT,),
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert done.returncode == 0, done.stderr
    kept, answer = done.stdout.decode().splitlines()[-2:]
    assert answer == "图片中一共有三个物体。"
    assert not Path(kept).parent.exists()
