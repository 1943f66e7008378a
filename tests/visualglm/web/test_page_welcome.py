"""The first minute on the page, and the consent before a conversation is left."""

import base64
from typing import Any

import pytest

from tests.helpers.browser import (
    BROWSER_TESTS,
    PATIENCE_MS,
    chromium as chromium,
    enter as enter,
    page_url as page_url,
    wait_until,
)
from tests.helpers.cli_program import SCENE
from tests.helpers.page_images import (
    ask,
    expect,
    give,
    image_bytes,
    open_page as open_page,
    page as page,
    panel_image,
    send_event,
    state,
)

pytestmark = BROWSER_TESTS


START = "Start new conversation"
CAUSES = {
    "another image": (lambda page: page.set_input_files("#image-file", SCENE), START),
    "a dropped image": (lambda page: send_event(page, "drop", ["scene.png"]), START),
    "removal": (lambda page: page.get_by_role("button", name="Remove").click(), "Remove the image"),
    "clearing": (
        lambda page: page.locator("#image-panel").get_by_role("button", name="New conversation").click(),
        START,
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_consent_is_asked_in_a_dialog_that_escape_refuses(page: Any, cause: str) -> None:
    act, accept = CAUSES[cause]
    give(page)
    ask(page)
    former = state(page, "app.conversation.id")
    act(page)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name=accept)).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()
    assert state(page, "app.conversation.id") == former
    act(page)
    dialog.get_by_role("button", name=accept).click()
    wait_until(page, f"app.conversation.id !== '{former}'")
    assert state(page, f"Object.keys((await app.store.get('conversations', '{former}')).nodes).length") == 1
    expect(page.locator("#welcome")).to_be_visible()


def test_a_new_conversation_keeps_the_image_and_can_be_undone(page: Any) -> None:
    give(page)
    ask(page)
    former = state(page, "app.conversation.id")
    page.locator("#image-panel").get_by_role("button", name="New conversation").click()
    page.get_by_role("dialog").get_by_role("button", name="Start new conversation").click()
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    wait_until(page, f"app.conversation.id === '{former}'")


def test_the_removal_from_an_empty_conversation_can_be_undone(page: Any) -> None:
    give(page)
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("button", name="Add an image")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()


def test_an_example_asks_before_it_replaces_the_visitors_image(page: Any) -> None:
    give(page)
    card = page.locator(".example").first
    card.locator(".question-chip").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()
    assert state(page, "Object.keys(app.conversation.nodes).length") == 0
    card.locator(".question-chip").first.click()
    dialog.get_by_role("button", name="Use the example").click()
    wait_until(page, "Object.keys(app.conversation.nodes).length === 1")
    assert state(page, "(await app.images.record(app.conversation.imageId)).example")


def test_an_example_replaces_an_example_without_a_question(page: Any) -> None:
    first, second = page.locator(".example-image").nth(0), page.locator(".example-image").nth(1)
    first.click()
    wait_until(page, "app.conversation.imageId")
    before = state(page, "app.conversation.imageId")
    second.click()
    wait_until(page, f"app.conversation.imageId !== '{before}'")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_question_of_an_example_is_asked_about_it(page: Any) -> None:
    chip = page.locator(".example").nth(1).locator(".question-chip").first
    question = chip.inner_text()
    chip.click()
    expect(page.locator("#welcome")).to_be_hidden()
    node = state(page, "Object.values(app.conversation.nodes)[0]")
    assert node["question"] == question
    assert state(page, "(await app.images.uploaded(app.conversation.imageId)).example") == state(
        page, "app.info.examples[1].image"
    )
    expect(page.locator("#question")).to_be_focused()


def test_questions_to_begin_with_suit_the_image(page: Any) -> None:
    give(page)
    chips = page.locator(".starters .question-chip")
    assert chips.first.inner_text() == state(page, "app.info.suggestions.en[0]")
    chips.first.click()
    assert state(page, "Object.values(app.conversation.nodes)[0].question") == state(page, "app.info.suggestions.en[0]")


COUNTING = {
    "question": {"en": "How many objects are there?", "zh": "图片里有几个物体？"},
    "answer": {"en": "3", "zh": "三个"},
}


def open_page_with_scenes(chromium: Any, page_url: str) -> Any:
    """Open the page of a model of the drawn world, whose server draws scenes."""
    page = chromium.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)

    def allow_scenes(route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, body=response.text().replace('"scenes":false', '"scenes":true'))

    image = f"data:image/png;base64,{base64.b64encode(image_bytes(SCENE)).decode('ascii')}"
    page.route(f"{page_url}?lang=en", allow_scenes)
    page.route("**/page/scene*", lambda route: route.fulfill(json={"seed": 7, "image": image, "questions": [COUNTING]}))
    page.goto(f"{page_url}?lang=en")
    page.wait_for_selector("#visualglm[data-ready]")
    return page


def test_a_scene_has_questions_and_a_true_answer_to_reveal(chromium: Any, page_url: str) -> None:
    page = open_page_with_scenes(chromium, page_url)
    page.get_by_role("button", name="Draw me a random scene").click()
    expect(panel_image(page, "scene 7.png")).to_be_visible()
    page.locator(".starters .question-chip").first.click()
    assert state(page, "Object.values(app.conversation.nodes)[0].question") == COUNTING["question"]["en"]
    reveal = page.get_by_role("button", name="Show the true answer")
    expect(reveal).to_be_visible()
    expect(page.locator(".truth p")).to_be_hidden()
    reveal.click()
    expect(page.locator(".truth")).to_contain_text(COUNTING["answer"]["en"])
    expect(page.locator(".truth p")).to_be_focused()
    page.context.close()


def test_all_texts_exist_in_chinese(open_page: Any) -> None:
    page = open_page("?lang=zh")
    expect(page.get_by_role("button", name="添加图片")).to_be_visible()
    give(page)
    expect(page.locator(".starters h3")).to_have_text("针对你的图片提问")
    expect(page.locator(".image-details")).to_contain_text("像素")
