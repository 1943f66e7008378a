"""Two models side by side, votes and corrections, in a browser."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import BROWSER_TESTS, Person
from tests.helpers.cli_program import SCENE
from tests.helpers.page_modules import call_app

pytestmark = BROWSER_TESTS


@pytest.fixture(scope="module")
def votes(tmp_path_factory: Any) -> Path:
    """The file of votes."""
    return Path(tmp_path_factory.mktemp("votes") / "votes.jsonl")


@pytest.fixture(scope="module")
def page_arguments(votes: Path) -> list[str]:
    """Arguments of the page's command line."""
    return ["--votes", str(votes), "--compare", "visualglm-tiny"]


def read_votes(votes: Path) -> list[Any]:
    return [json.loads(line) for line in votes.read_text(encoding="utf-8").splitlines()]


def said(text: str) -> list[dict[str, str]]:
    """Return an answer as a preference row holds it."""
    return [{"role": "assistant", "content": text}]


def test_two_models_answer_side_by_side(person: Person) -> None:
    person.asks("which")
    person.locates("#log .columns .answer").to_have_count(2)
    person.waits()
    texts = person.page.locator("#log .columns .text").all_text_contents()
    assert texts == ["This is model 1 of the page.", "This is model 2 of the page."]
    assert person.page.locator("#log del").all_text_contents() == ["1"]
    assert person.page.locator("#log ins").all_text_contents() == ["2"]
    person.keeps("two_models")


def test_a_vote_is_appended_to_the_file(person: Person, votes: Path) -> None:
    before = len(read_votes(votes))
    person.gives(SCENE)
    person.asks("which")
    person.waits()
    person.clicks("B is better")
    person.locates("#log .answer:last-child .preferred").to_be_visible()
    row = read_votes(votes)[before]
    assert row["chosen"] == said("This is model 2 of the page.")
    assert row["rejected"] == said("This is model 1 of the page.")
    assert row["prompt"] == [{"role": "user", "content": "which"}]
    assert (votes.parent / row["images"][0]).is_file()
    assert person.page.get_by_role("button", name="A is better").count() == 0
    person.reloads()
    person.sees("You found this one better", "#log .answer:last-child")
    person.asks("seen")
    person.waits()
    person.sees("turns [which]", "#log .round:last-child")
    conversation = person.conversation()
    voted = next(node for node in conversation["nodes"].values() if node.get("isPreferred"))
    assert {node["parent"] for node in conversation["nodes"].values()} == {None, voted["id"]}


LOSE_IMAGE = """async (app) => {
    const record = await app.store.get("images", app.conversation.imageId);
    await app.store.put("images", { ...record, serverId: "0".repeat(64) }); // one that the server does not have
}"""


def test_a_vote_about_an_image_that_the_server_has_dropped_sends_it_again(person: Person, votes: Path) -> None:
    before = len(read_votes(votes))
    person.gives(SCENE)
    person.asks("which")
    person.waits()
    call_app(person, LOSE_IMAGE)
    person.clicks("B is better")
    person.locates("#log .answer:last-child .preferred").to_be_visible()
    (name,) = read_votes(votes)[before]["images"]
    assert (votes.parent / name).read_bytes() == Path(SCENE).read_bytes()


def test_equal_answers_cannot_be_voted_for(person: Person) -> None:
    person.asks("say hello")
    person.waits()
    person.sees("Both answers are the same", "#log")
    assert person.page.get_by_role("button", name="is better").count() == 0


def test_a_correction_is_the_better_answer(person: Person, votes: Path) -> None:
    before = len(read_votes(votes))
    person.clicks("Stop comparing")
    person.asks_and_sees("say a red car", "a red car")
    person.acts("correct")
    field = person.page.get_by_label("Corrected answer")
    field.fill("a blue car")
    person.keeps("correction")
    field.press("Enter")
    person.sees("Corrected by you", "#log")
    row = read_votes(votes)[before]
    assert (row["chosen"], row["rejected"], row["images"]) == (said("a blue car"), said("a red car"), [])
    person.locates("#log .answer > .text").to_have_text("a blue car")
    person.reloads()
    person.locates("#log .answer > .text").to_have_text("a blue car")
    person.page.get_by_text("Corrected by you").click()
    assert person.page.locator("#log .correction del").all_text_contents() == ["red"]
    assert person.page.locator("#log .correction ins").all_text_contents() == ["blue"]


def test_a_correction_without_a_change_is_not_sent(person: Person, votes: Path) -> None:
    before = len(read_votes(votes))
    person.clicks("Stop comparing")
    person.asks_and_sees("say a red car", "a red car")
    for key in "Enter", "Escape":
        person.acts("correct")
        person.page.get_by_label("Corrected answer").press(key)
        person.locates("#log .text-form").to_have_count(0)
        assert person.focused("data-action") == "correct"
    assert len(read_votes(votes)) == before


def test_a_vote_that_fails_is_reported(person: Person) -> None:
    person.page.route("**/page/votes*", lambda route: route.abort())
    person.asks("which")
    person.waits()
    person.clicks("A is better")
    person.sees("cannot be reached", "#toasts")
    assert person.page.get_by_role("button", name="A is better").count() == 1
