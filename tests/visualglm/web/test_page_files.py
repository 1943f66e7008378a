"""Saved, shared and loaded conversations, in a browser: files are complete, and invalid ones are rejected."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.browser import BROWSER_TESTS, Person
from tests.helpers.cli_program import SCENE
from tests.helpers.page_modules import call_app, call_module

pytestmark = BROWSER_TESTS
FIXTURE = Path(__file__).parents[2] / "goldens" / "fixtures" / "conversation.json"
MARKUP = "<script>window.broken = 1</script> & \"quotes\" 'too' <b>bold</b>"
LIMITS = {"turns": 1000, "answer": 100_000, "image_bytes": 20 * 1024 * 1024}
SMALL_IMAGE = 400_000  # sending the server's limit to the browser takes a minute
MAX_TEXT, MAX_TOKENS = 1_000_000, 500_000
ADD_TURNS = """async (app, turns) => {
    let parent = null;
    for (const [index, [question, answer, status]] of turns.entries()) {
        const node = { id: `n${index}`, parent, question, answer, status, created: index, updated: 1, seed: 7 };
        app.conversation.nodes[node.id] = node;
        parent = node.id;
    }
    await app.saveNow();
    app.emit("change");
}"""


def saves(person: Person, action: str) -> tuple[str, str]:
    """Choose an action of the menu of files; return the name and the content of the downloaded file."""
    person.page.click("#files-button")
    with person.page.expect_download() as waiting:
        person.page.get_by_role("menuitem", name=action, exact=True).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_text(encoding="utf-8")


def words_of(person: Person) -> list[str]:
    """Return the questions and answers that are shown."""
    source = """async (module) => {
        const { conversation } = await window.visualglm.app;
        return module.shownNodes(conversation).map(({ question, answer, status }) => `${question} ${answer} ${status}`);
    }"""
    found: list[str] = call_module(person, "core/conversation.js", source)
    return found


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def loads(person: Person, data: bytes) -> None:
    file = {"name": "saved.json", "mimeType": "application/json", "buffer": data}
    person.page.set_input_files("#conversation-file", file)


def document(**changes: Any) -> bytes:
    turns = [{"question": "What?", "answer": "A car."}]
    saved = {"format": "visualglm-conversation", "version": 1, "image": None, "turns": turns, **changes}
    return json.dumps(saved).encode()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def branch(**changes: Any) -> dict[str, Any]:
    return {"parent": None, "question": "q", "answer": "a", "status": "done", "shown": True, "seed": None, **changes}


PAIR = {"pair": 0, "side": 0, "settled": False, "preferred": False}

# Saving.


def test_a_saved_conversation_holds_the_image_and_the_complete_turns(person: Person) -> None:
    person.gives(SCENE)
    turns = [["问题？", "答案", "done"], ["lost", "half", "stopped"], ["And?", MARKUP, "truncated"]]
    call_app(person, ADD_TURNS, turns)
    name, text = saves(person, "Save as a file")
    assert re.fullmatch(rf"{Path(SCENE).stem} \d{{4}}-\d\d-\d\d \d\d-\d\d\.json", name)
    saved = json.loads(text)
    assert (saved["format"], saved["version"]) == ("visualglm-conversation", 1)
    assert saved["turns"] == [{"question": "问题？", "answer": "答案"}, {"question": "And?", "answer": MARKUP}]
    assert base64.b64decode(saved["image"].split(",")[1]) == Path(SCENE).read_bytes()
    assert [item["status"] for item in saved["branches"]] == ["done", "stopped", "truncated"]
    assert saved["settings"]["temperature"] is not None


def test_a_saved_conversation_is_restored_with_its_branches(person: Person) -> None:
    person.gives(SCENE)
    person.asks_and_sees("seen", "turns []")
    person.acts("retry")
    person.waits()
    person.asks_and_sees("cut", "too long")
    _, text = saves(person, "Save as a file")
    before = words_of(person)
    call_app(person, "(app) => app.startNew()")
    loads(person, text.encode())
    person.sees("is open", "#toasts")
    person.sees("too long", "#log")
    assert words_of(person) == before
    nodes = person.conversation()["nodes"].values()
    assert len([node for node in nodes if node["parent"] is None]) == 2
    person.asks_and_sees("seen", "turns [seen cut]")
    assert "image None" not in words_of(person)[-1]
    person.reloads()
    assert len(person.conversation()["nodes"]) == 4


NODE_DETAILS = """(app) => {
    const nodes = Object.values(app.conversation.nodes).sort((a, b) => a.created - b.created || a.side - b.side);
    return nodes.map(({ answer, settings, model, side, settled, isPreferred, pair, stats }) => [
        [answer, settings, model, side, Boolean(settled), Boolean(isPreferred), Boolean(pair)],
        [stats.tokens, stats.seconds, stats.dropped_turns, stats.seed],
    ]);
}"""
COMPARE = """(app) => {
    app.comparison = { sides: [{ model: 0, settings: {} }, { model: 0, settings: { temperature: 0.25 } }] };
    app.emit("comparison");
}"""


def test_numbers_settings_and_comparisons_are_restored(person: Person) -> None:
    person.asks_and_sees("dropped", "12 tokens")
    call_app(person, COMPARE)
    person.asks("seen")
    person.locates("#log .columns .answer").to_have_count(2)
    person.waits()
    before = call_app(person, NODE_DETAILS)
    _, text = saves(person, "Save as a file")
    call_app(person, "(app) => app.startNew()")
    loads(person, text.encode())
    person.sees("is open", "#toasts")
    assert call_app(person, NODE_DETAILS) == before
    assert [details[-1] for details, _ in before] == [False, True, True]
    person.sees("12 tokens", "#log")
    person.sees("no longer sees the 2 oldest turns", "#log")
    person.sees("temperature 0.25", "#log .columns")
    person.acts("choose-B")
    person.locates("#log .columns .answer").to_have_count(0)
    person.asks("cut")
    person.waits()
    nodes = person.conversation()["nodes"].values()
    (chosen,) = (node["id"] for node in nodes if node["question"] == "seen" and node["side"] == 1)
    assert [node["parent"] for node in nodes if node["question"] == "cut"] == [chosen, chosen]


def test_the_settings_of_a_saved_conversation_are_used_and_can_be_restored(person: Person) -> None:
    usual = call_app(person, "(app) => app.settings")
    loads(person, document(settings={"temperature": 0.25, "top_k": 1e9, "seed": 7, "unknown": 1, "top_p": "x"}))
    person.sees("settings are in use", "#toasts")
    used = call_app(person, "(app) => app.settings")
    assert used == {**usual, "temperature": 0.25, "top_k": 200, "seed": 7}
    person.page.click("#settings-button")
    person.locates("#settings #seed").to_have_value("7")
    person.page.get_by_role("button", name="Restore my settings").click()
    person.locates("#settings #seed").to_have_value("")
    assert call_app(person, "(app) => app.settings") == usual
    stored = call_app(person, "async (app) => (await app.store.get('values', 'settings')).values")
    assert stored == usual


NAMES = {
    "scene.png": "scene",
    "../../etc/passwd": "etc passwd",
    'a<b>:"c"|?*.jpeg': "a b c",
    "照片 1.JPG": "照片 1",
    "": "conversation",
    "CON.png": "conversation CON",
    "\u202egnp.exe": "gnp.exe",
    " .hidden": "hidden",
    "x" * 200: "x" * 60,
    "v1.2 final.webp": "v1.2 final",
}


@pytest.mark.parametrize("name", NAMES)
def test_file_names_are_safe(person: Person, name: str) -> None:
    source = "(module, name) => module.fileName(name, 'json', new Date(2026, 11, 1, 14, 30))"
    assert call_module(person, "files/exporting.js", source, name) == f"{NAMES[name]} 2026-12-01 14-30.json"


def test_markdown_holds_the_image_and_the_words(person: Person) -> None:
    person.gives(SCENE)
    call_app(person, ADD_TURNS, [["What?", "A car.", "done"], ["More?", "It beg", "stopped"]])
    name, text = saves(person, "Save as Markdown")
    assert name.endswith(".md")
    assert "**Q:** What?\n\n**A:** A car.\n" in text
    assert "It beg *(not complete)*" in text
    image = re.search(r"!\[[^\]]*\]\(data:image/jpeg;base64,([A-Za-z0-9+/=]+)\)", text)
    assert image
    assert size_of(base64.b64decode(image[1])) == size_of(Path(SCENE).read_bytes())


def test_the_conversation_is_copied_as_text(enter: Any) -> None:
    person = enter(permissions=["clipboard-read", "clipboard-write"])
    call_app(person, ADD_TURNS, [["What?", MARKUP, "done"]])
    person.page.click("#files-button")
    person.page.get_by_role("menuitem", name="Copy as text").click()
    person.sees("copied", "#toasts")
    assert person.page.evaluate("navigator.clipboard.readText()") == f"Q: What?\n\nA: {MARKUP}\n"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_shared_page_shows_everything_offline_and_runs_nothing(
    enter: Any, chromium: Any, tmp_path: Path, scheme: Any
) -> None:
    person = enter(query="?lang=zh")
    person.gives(SCENE)
    call_app(person, ADD_TURNS, [["图里有什么？", f"{MARKUP}\n  two  lines", "done"], ["w" * 500, "长" * 500, "done"]])
    name, text = saves(person, "以网页形式分享")
    assert name.endswith(".html")
    assert "<script" not in text
    (tmp_path / "shared.html").write_text(text, encoding="utf-8")
    requests = []
    phone = {"width": 390, "height": 844}
    with chromium.new_context(offline=True, viewport=phone, color_scheme=scheme, is_mobile=True) as context:
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "shared.html").as_uri())
        assert page.locator(".answer").first.inner_text().removeprefix("答：").strip() == f"{MARKUP}\n  two  lines"
        assert page.evaluate("document.querySelector('img').naturalWidth") == size_of(Path(SCENE).read_bytes())[0]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        assert page.evaluate("typeof window.broken") == "undefined"
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


# Loading.


def test_the_fixture_of_the_former_page_is_loaded(person: Person) -> None:
    loads(person, FIXTURE.read_bytes())
    person.sees("一辆 <b>小汽车</b>", "#log")
    person.sees("A red ball.", "#log")
    turns = json.loads(FIXTURE.read_text(encoding="utf-8"))["turns"]
    nodes = sorted(person.conversation()["nodes"].values(), key=lambda node: node["created"])
    assert [(node["question"], node["answer"]) for node in nodes] == [(t["question"], t["answer"]) for t in turns]
    person.asks_and_sees("seen", f"turns [{' '.join(turn['question'] for turn in turns)}]")
    person.sees_no("image None", "#log")


def test_a_byte_order_mark_is_allowed(person: Person) -> None:
    loads(person, b"\xef\xbb\xbf" + document())
    person.sees("A car.", "#log")


def test_loading_asks_for_consent_and_keeps_the_open_conversation(person: Person) -> None:
    person.asks_and_sees("cut", "too long")
    opened = person.conversation()["id"]
    loads(person, document())
    person.page.wait_for_selector("dialog[open]")
    person.page.keyboard.press("Escape")
    assert person.conversation()["id"] == opened
    loads(person, document())
    person.page.get_by_role("dialog").get_by_role("button", name="Open the file").click()
    person.sees("A car.", "#log")
    stored = call_app(person, "async (app, id) => Boolean(await app.store.get('conversations', id))", opened)
    assert stored


def test_a_dropped_file_is_loaded(person: Person) -> None:
    transfer = person.page.evaluate_handle(
        """(text) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([text], "saved.json", { type: "application/json" }));
            return transfer;
        }""",
        document().decode(),
    )
    person.page.dispatch_event("#log", "drop", {"dataTransfer": transfer})
    person.sees("A car.", "#log")


BAD_FILES = {
    "nothing": (b"", "json"),
    "no text": (b"\xff\xfe\x00", "json"),
    "no JSON": (b"{", "json"),
    "a list": (b"[]", "format"),
    "too deep": (b"[" * 100_000, "json"),
    "something else": (b'{"format": "other"}', "format"),
    "a newer version": (document(version=2), "version"),
    "a path": (document(image=SCENE), "image"),
    "a file URL": (document(image=f"file://{SCENE}"), "image"),
    "an address": (document(image="http://127.0.0.1:9/image.png"), "image"),
    "a data URL of text": (document(image="data:text/plain;base64,AAAA"), "image"),
    "bad base64": (document(image="data:image/png;base64,A"), "image"),
    "a number for an image": (document(image=1), "image"),
    "blanks in its image": (document(image="data:image/png;base64," + " " * 300_000 + "!"), "image"),
    "no ASCII in its image": (document(image="data:image/png;base64,é"), "image"),
    "too large an image": (document(image=data_url(bytes(SMALL_IMAGE + 100))), "imageSize"),
    "a number for turns": (document(turns=1), "turns"),
    "too many turns": (document(turns=[{"question": "", "answer": ""}] * (LIMITS["turns"] + 1)), "turns"),
    "a text for a turn": (document(turns=["question"]), "turn"),
    "half a turn": (document(turns=[{"question": "What?"}]), "turn"),
    "a number for an answer": (document(turns=[{"question": "What?", "answer": 1}]), "turn"),
    "too long a turn": (document(turns=[{"question": "", "answer": "a" * (LIMITS["answer"] + 1)}]), "turn"),
    "too much text": (
        document(turns=[{"question": "", "answer": "a" * LIMITS["answer"]}] * (MAX_TEXT // LIMITS["answer"] + 1)),
        "text",
    ),
    "too many brackets": (b"[" + b"[]," * (MAX_TOKENS // 2) + b"[]]", "parts"),
    "a branch before its parent": (document(branches=[branch(parent=1), branch()]), "branches"),
    "a branch of itself": (document(branches=[branch(parent=0)]), "branches"),
    "a branch with another status": (document(branches=[branch(status="running")]), "branches"),
    "a branch without an answer": (document(branches=[branch(answer=None)]), "turn"),
    "a branch with another model": (document(branches=[branch(model=2)]), "branches"),
    "a text for the number of tokens": (document(branches=[branch(stats={"tokens": "<b>"})]), "branches"),
    "a negative time": (document(branches=[branch(stats={"seconds": -1})]), "branches"),
    "a number for the corrected answer": (document(branches=[branch(original=1)]), "branches"),
    "half a pair": (document(branches=[branch(**PAIR)]), "branches"),
    "a pair of one side": (document(branches=[branch(**PAIR), branch(**PAIR)]), "branches"),
    "a pair at two places": (
        document(branches=[branch(**PAIR), branch(**{**PAIR, "side": 1, "parent": 0})]),
        "branches",
    ),
    "too many branches": (document(branches=[branch()] * 5001), "branches"),
    "no list of branches": (document(branches={}), "branches"),
}


@pytest.fixture(scope="module")
def reader(chromium: Any, page_url: str) -> Any:
    """A person whose page only reads files; it is shared, because nothing changes it."""
    with chromium.new_context(locale="en-GB") as context:
        person = Person(context.new_page(), page_url)
        person.opens()
        yield person


@pytest.mark.parametrize(("data", "code"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_rejected(reader: Person, data: bytes, code: str) -> None:
    source = """async (module, [data, limits]) => {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        try {
            module.fromText(await new Blob([bytes]).text(), limits, {});
        } catch (error) {
            return error instanceof module.SavedConversationError ? error.code : String(error);
        }
        return "accepted";
    }"""
    limits = {**LIMITS, "image_bytes": SMALL_IMAGE}
    found = call_module(reader, "files/saved_conversation.js", source, [base64.b64encode(data).decode(), limits])
    assert found == code


@pytest.mark.parametrize("query", ["?lang=en", "?lang=zh"])
def test_each_fault_has_a_message(enter: Any, query: str) -> None:
    faults = call_module(enter(query=query), "files/files_words.js", "(module) => Object.keys(module.words.faults)")
    assert {code for _, code in BAD_FILES.values()} <= set(faults)


@pytest.mark.parametrize("query", ["?lang=en", "?lang=zh"])
def test_a_rejected_file_changes_nothing_and_says_why(enter: Any, query: str) -> None:
    person = enter(query=query)
    opened = person.conversation()["id"]
    expected = {
        document(version=2): {"en": "newer page", "zh": "更新的页面"},
        b"{": {"en": "not JSON", "zh": "不是 JSON"},
        document(image=data_url(b"no image")): {"en": "image", "zh": "图片"},  # the server validates its bytes
    }
    for data, texts in expected.items():
        loads(person, data)
        person.page.wait_for_selector("#toasts [role=alert]")
        person.sees(texts[query[-2:]], "#toasts [role=alert]")
        assert person.conversation()["id"] == opened
        person.page.locator("#toasts .icon-button").click()
    assert call_app(person, "async (app) => (await app.store.all('images')).length") == 0


def test_half_a_character_becomes_a_replacement_character(person: Person) -> None:
    loads(
        person, b'{"format": "visualglm-conversation", "version": 1, "turns": [{"question": "\\ud800", "answer": "a"}]}'
    )
    person.sees("\ufffd", "#log")


def test_the_menu_is_used_by_keyboard(person: Person) -> None:
    person.page.focus("#files-button")
    person.page.keyboard.press("Enter")
    person.locates("[role=menuitem]").to_have_count(1)  # without turns there is only something to load
    person.page.keyboard.press("Escape")
    assert person.focused("id") == "files-button"
    person.asks_and_sees("cut", "too long")
    person.page.focus("#files-button")
    person.page.keyboard.press("Enter")
    person.locates("[role=menuitem]").to_have_count(5)
    with person.page.expect_download() as waiting:
        person.page.keyboard.press("Enter")
    assert waiting.value.suggested_filename.startswith("conversation ")


def test_the_limits_are_those_of_the_server(person: Person) -> None:
    limits = call_app(person, "(app) => app.info.limits")
    assert {name: limits[name] for name in LIMITS} == LIMITS
