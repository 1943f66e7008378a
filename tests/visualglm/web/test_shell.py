"""The first HTML: our head and shell in Gradio's documents; the client's files; the example questions."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the web page needs Gradio")

import gradio

from model import CHINESE, ENGLISH, Conversation, GenerationConfig, SatChatModel
from model.description import Description
from model.images.preprocess import load_image
from visualglm.web.client_files import ClientFolder, read_client_files
from visualglm.web.examples import EXAMPLES, EXAMPLES_FOLDER, choose_suggestions, knows_drawn_world
from visualglm.web.shell import insert_shell

TEMPLATES = Path(gradio.__file__).parent / "templates" / "frontend"
INFO = {"user": "</script><script>alert(1)</script>", "model": {"name": "&amp;"}}


class Tags(HTMLParser):
    """Collects the start tags of a document."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("template", ["index.html", "share.html"])
@pytest.mark.parametrize(("language", "code"), [(CHINESE, "zh-CN"), (ENGLISH, "en")])
def test_gradio_s_document_shows_our_shell_and_metadata(template: str, language: Any, code: str) -> None:
    files = read_client_files()
    document = insert_shell((TEMPLATES / template).read_bytes(), files, INFO, language, "https://a/b.png").decode()
    tags = Tags(document).found
    metadata = [attributes for tag, attributes in tags if tag == "meta"]
    named = {str(item.get("property") or item.get("name")): item.get("content") for item in metadata}
    assert named["og:title"] == "VisualGLM"
    assert named["og:image"] == "https://a/b.png"
    assert not [item for item in metadata if "gradio" in str(item.get("content")).lower()]
    assert [attributes["lang"] for tag, attributes in tags if tag == "html"] == [code]
    assert document.index('<div id="visualglm">') < document.index("<gradio-app")
    parts = document[document.index('<template id="gradio-parts">') : document.index("</template>")]
    assert parts.count("<script") == 1
    assert "{" not in document[document.index('<div id="visualglm">') : document.index("<gradio-app")]
    assert sum(attributes.get("id") == "question" for _, attributes in tags) == 1


def test_no_value_can_end_the_script_that_holds_it() -> None:
    files = read_client_files()
    document = insert_shell((TEMPLATES / "index.html").read_bytes(), files, INFO, ENGLISH).decode()
    found = re.search(r'<script type="application/json" id="page-info">(.*?)</script>', document, re.DOTALL)
    assert found is not None
    info = json.loads(found[1])
    assert {**INFO, "shell": files.json("shell_texts.json")} == info


def test_the_address_of_the_client_follows_its_content(tmp_path: Path) -> None:
    (tmp_path / "main.js").write_text("1")
    (tmp_path / "base.css").write_text("b")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.css").write_text("a")
    folder = ClientFolder(tmp_path)
    first = folder.read()
    assert first.text("page.css") == "b\na"
    assert folder.read() is first
    (tmp_path / "log" / "more.js").write_text("2")
    assert folder.read().hash != first.hash
    assert folder.read().modules == ["log/more.js", "main.js"]


def test_suggestions_suit_the_model(tiny_model: SatChatModel) -> None:
    assert knows_drawn_world(tiny_model.description)
    assert not knows_drawn_world(Description("visualglm-6b"))
    assert choose_suggestions(tiny_model.description) != choose_suggestions(Description("visualglm-6b"))


# Words of the true answers, which visualglm-tiny must give to the questions of each example.
TRUE_WORDS = {
    "scene.png": {CHINESE: ["紫色的小汽车", "右", "右"], ENGLISH: ["purple car", "right", "red"]},
    "scene_2.png": {CHINESE: ["三", "右下", "绿"], ENGLISH: ["three", "bottom right", "tree"]},
    "scene_3.png": {CHINESE: ["月牙", "月牙", "没有"], ENGLISH: ["moon", "moon", "No"]},
    "hand_drawn.png": {CHINESE: ["黄", "五", "紫色的爱心"], ENGLISH: ["yellow", "five", "purple heart"]},
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_questions_of_an_example_are_answered_truly(example: Any, tiny_model: SatChatModel) -> None:
    image = load_image(EXAMPLES_FOLDER / example.name)
    config = GenerationConfig(temperature=0, repetition_penalty=1)
    for language, questions in example.questions.items():
        for question, word in zip(questions, TRUE_WORDS[example.name][language], strict=True):
            chunks = tiny_model.stream_answer(Conversation(image, [], language), question, config)
            assert word in "".join(chunk.text for chunk in chunks), question
