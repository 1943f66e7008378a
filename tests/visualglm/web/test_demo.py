"""The web program: its command line, and its page's HTTP API."""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from model import VisualGLMError
from model.engine.config import RANGES
from model.images.preprocess import load_image
from tests.helpers.cli_program import DESCRIBED_ZH, PATIENCE, ROOT, SCENE
from tests.helpers.ports import free_port
from tests.helpers.preloaded import WEB, run_preloaded
from tests.helpers.web_client import PageClient, error_code, text_of
from tests.helpers.web_program import PROGRAM, color_of, python, running_page

pytest.importorskip("gradio", reason="the web page needs Gradio")

from visualglm.web.arguments import parse_arguments
from visualglm.web.program import load_models

FIXTURES = ROOT / "tests" / "goldens" / "fixtures"
SCENE_COLOR = color_of(load_image(SCENE))


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("votes") / "votes.jsonl"


@pytest.fixture(scope="module")
def url(votes: Path) -> Iterator[str]:
    with running_page([*PROGRAM, "--votes", str(votes), "--compare_quant", "8"]) as address:
        yield address


@pytest.fixture
def visitor(url: str) -> Iterator[PageClient]:
    client = PageClient(url)
    yield client
    client.close()


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_answers_about_an_image_and_earlier_turns(visitor: PageClient) -> None:
    image = visitor.add_image(SCENE)
    assert image == hashlib.sha256(Path(SCENE).read_bytes()).hexdigest()
    assert visitor.ask("描述这张图片。", image) == DESCRIBED_ZH
    turns = [{"question": "描述这张图片。", "answer": DESCRIBED_ZH}]
    assert visitor.ask("小汽车是什么颜色？", image, turns=turns) == "小汽车是紫色的。"
    seen = visitor.ask("seen", image, turns=turns, settings={"temperature": 0.5, "top_p": None})
    assert seen == f"turns [描述这张图片。] image {SCENE_COLOR} en temperature 0.5"
    assert visitor.ask("seen").startswith("turns [] image None")


def test_the_events_of_an_answer(visitor: PageClient) -> None:
    events = visitor.events("描述这张图片。", visitor.add_image(SCENE), settings={"temperature": 0, "seed": 7})
    assert [events[0], events[-1]["type"]] == [{"type": "start", "seed": 7}, "done"]
    texts = [event for event in events if event["type"] == "text"]
    counts = [event["tokens"] for event in texts]
    assert counts == sorted(counts)
    done = events[-1]
    assert (done["finish_reason"], done["seed"], done["dropped_turns"], done["tokens"]) == ("stop", 7, 0, counts[-1])
    assert done["prompt_tokens"] > 32
    assert 0 < done["first_token_s"] <= done["seconds"]
    assert {event["phase"] for event in events if event["type"] == "phase"} <= {"image", "prompt", "waiting"}


def test_a_random_seed_is_reported_and_repeats_the_answer(visitor: PageClient) -> None:
    settings = {"temperature": 2, "top_p": 1, "top_k": 0}
    first = visitor.events("描述这张图片。", settings=settings)
    seed = first[0]["seed"]
    assert first[-1]["seed"] == seed
    assert text_of(visitor.events("描述这张图片。", settings={**settings, "seed": seed})) == text_of(first)
    assert visitor.events("seen")[0]["seed"] != seed


def test_a_question_without_letters_is_asked_in_the_page_s_language(visitor: PageClient) -> None:
    image = visitor.add_image(SCENE)
    chinese, english = (visitor.ask("1?", image, language=code) for code in ("zh", "en"))
    assert chinese != english
    assert re.search("[\u4e00-\u9fff]", english) is None


def test_errors_of_the_model_are_events(visitor: PageClient) -> None:
    busy, broken, long = (visitor.events(question)[-1] for question in ("busy", "break", "x " * 4000))
    assert (busy["type"], busy["code"], "Try again" in busy["message"]) == ("error", "busy", True)
    assert (broken["code"], "inside of the program" in broken["message"]) == ("internal", False)
    assert long["code"] == "prompt_too_long"
    assert visitor.events("cut")[-1]["finish_reason"] == "length"


def test_disconnecting_stops_the_answer(visitor: PageClient) -> None:
    before = visitor.ask("closed")
    with visitor.answering("slow") as events:
        while "number3" not in next(events).get("text", ""):
            pass
    wait_until(lambda: visitor.ask("closed") != before)


def test_the_compared_model_answers(visitor: PageClient) -> None:
    info = visitor.info()
    assert info["features"]["compare"]
    assert len(set(info["models"])) == 2
    assert visitor.ask("seen", model=1) == visitor.ask("seen", model=0)


def test_a_vote_becomes_a_preference_row(visitor: PageClient, votes: Path) -> None:
    image = visitor.add_image(SCENE)
    turns = [{"question": "q", "answer": "a"}]
    vote = {"image": image, "image_name": "scene.png", "turns": turns, "question": "What?", "chosen": "x"}
    counts = [visitor.post("/page/votes", {**vote, "rejected": text}).json()["count"] for text in ("y", "z")]
    assert counts == [1, 2]
    rows = [json.loads(line) for line in votes.read_text(encoding="utf-8").splitlines()]
    (name,) = rows[0]["images"]
    assert (votes.parent / name).read_bytes() == Path(SCENE).read_bytes()
    assert [message["content"] for message in rows[0]["prompt"]] == ["q", "a", "What?"]
    assert [message["role"] for message in rows[0]["prompt"]] == ["user", "assistant", "user"]
    assert [rows[1][key][0]["content"] for key in ("chosen", "rejected")] == ["x", "z"]
    assert error_code(visitor.post("/page/votes", {**vote, "image": "0" * 64, "rejected": "y"})) == "unknown_image"


def test_errors_of_the_model_are_told_in_the_language_of_the_request(visitor: PageClient) -> None:
    for language, is_chinese in (("zh", True), ("en", False)):
        image = visitor.http.post("/page/images", content=b"no image", params={"lang": language})
        setting = visitor.post("/page/answers", {"question": "seen", "settings": {"seed": -1}}, lang=language)
        for answer in (image, setting):
            assert bool(re.search("[\u4e00-\u9fff]", answer.json()["error"]["message"])) is is_chinese, answer.text


def test_page_info_describes_the_page(visitor: PageClient) -> None:
    info = visitor.info()
    assert (info["user"], info["model"]["name"], info["model"]["image_size"]) == (None, "visualglm-tiny", 224)
    assert info["features"]["votes"]
    for name, setting in info["settings"].items():
        assert setting["min"] in RANGES[name]
        assert setting["max"] in RANGES[name]
        assert setting["value"] is None or setting["min"] <= setting["value"] <= setting["max"]
    for example in info["examples"]:
        assert {len(questions) for questions in example["questions"].values()} == {3}
        assert visitor.http.get(f"/{example['image']}").headers["content-type"] == "image/png"


def test_the_requirements_are_gradio_s() -> None:
    """requirements_web.txt lists all of them except Pillow, for the reason that it gives."""
    lines = [(ROOT / f"requirements_{name}.txt").read_text(encoding="utf-8") for name in ("web", "wo_ds")]
    named = {canonical(line) for line in "\n".join(lines).splitlines() if line and line[0] != "#"}
    assert {canonical(text) for text in requires("gradio") or () if "extra ==" not in text} - named == {
        "pillow"
    } - named


def canonical(requirement: str) -> str:
    """Return the normalized package name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def test_the_page_needs_no_library_of_the_server() -> None:
    code = "import sys, visualglm.web.page; print({'prometheus_client', 'fastapi_offline'} & {*sys.modules})"
    assert run_preloaded(code).stdout.strip() == "set()"


@pytest.mark.slow
def test_the_twin_shows_the_same_page_on_the_hugging_face_model() -> None:
    flags = ("--from_pretrained", "visualglm-tiny", "--temperature", "0", "--device", "cpu", "--no-history")
    with running_page(python("web_demo_hf.py", *flags)) as address:
        visitor = PageClient(address)
        info = visitor.info()
        assert (info["features"]["history"], info["features"]["votes"], info["settings"]["temperature"]["value"]) == (
            False,
            False,
            0,
        )
        assert info["model"]["parameters"] > 10**6
        assert visitor.ask("描述这张图片。", visitor.add_image(SCENE), settings={}) == DESCRIBED_ZH
        assert visitor.post("/page/votes", {}).status_code == 404
        visitor.close()


def run_to_its_end(*flags: str) -> tuple[int, str]:
    """Run the program until it exits; return its exit code and output."""
    words = ["web_demo.py", "--from_pretrained", "visualglm-tiny", "--device", "cpu", *flags]
    ended = run_preloaded(f"import sys, web_demo; sys.argv = {words}; sys.exit(web_demo.main())", modules=WEB)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_taken_port_is_named(url: str) -> None:
    port = str(urlsplit(url).port)
    code, printed = run_to_its_end("--server_port", port)
    assert (code, f"port {port}" in printed, "Traceback" in printed) == (2, True, False)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--auth", "nobody"),
        ("--temperature", "-1"),
        ("--server_port", "70000"),
        ("--server_name", "203.0.113.7"),
        ("--votes", "no-such-folder/votes.jsonl"),
        ("--compare_quant", "5"),
    ],
)
def test_an_invalid_flag_is_named(wrong: tuple[str, str]) -> None:
    port = ("--server_port", str(free_port())) if wrong[0] != "--server_port" else ()
    code, printed = run_to_its_end(*wrong, *port)
    names: Any = wrong[1] if wrong[0] in ("--server_name", "--votes") else wrong[0].strip("-")
    assert (code, names in printed, "Traceback" in printed) == (2, True, False)


def test_an_unknown_model_to_compare_is_named() -> None:
    code, printed = run_to_its_end("--compare", "no-such-model", "--server_port", str(free_port()))
    assert (code, "no-such-model" in printed, "Traceback" in printed) == (1, True, False)


@pytest.fixture
def model_of_4_bits(tmp_path: Path) -> str:
    """The directory of a model whose configuration says that its weights have 4 bits."""
    directory = shutil.copytree(FIXTURES / "hf-export", tmp_path / "four")
    shutil.copy(FIXTURES / "vocabulary" / "ice_text.model", directory)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps({**config, "quantization_bit": 4}), encoding="utf-8")
    return str(directory)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [(["--compare", "no-such-model"], "no-such-model"), (["--hf", "--compare_quant", "8"], "bits already")],
)
def test_both_models_are_checked_before_one_is_loaded(
    flags: list[str], fault: str, model_of_4_bits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["web_demo.py", "--from_pretrained", model_of_4_bits, *flags])
    monkeypatch.setattr("visualglm.web.program.load_model", lambda *_: pytest.fail("A model was loaded."))
    with pytest.raises(VisualGLMError, match=fault):
        load_models(parse_arguments(80)[0], None, hf=False)


UNSHARED = """
import sys, gradio, web_demo
from visualglm.web import program

def fail(**_):
    raise RuntimeError("There is no network.")

gradio.networking.setup_tunnel, program.wait_for_shutdown_signal = fail, lambda: None
sys.argv = ["web_demo.py", "--from_pretrained", "visualglm-tiny", "--share", "--server_port", "{port}"]
sys.exit(web_demo.main())
"""


def test_without_a_public_url_the_page_is_served_locally() -> None:
    ended = run_preloaded(UNSHARED.format(port=free_port()), modules=WEB)
    assert ended.returncode == 0
    assert "no public URL" in ended.stderr
    assert len(ended.stdout.splitlines()) == 1
    assert "http://127.0.0.1" in ended.stdout
