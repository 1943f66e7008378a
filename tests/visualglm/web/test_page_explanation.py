"""Words of an answer light up their part of the image, in a browser."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.api_server import SCENE
from tests.helpers.browser import BROWSER_TESTS, Person
from tests.helpers.page_states import DESKTOP, PHONE
from tests.helpers.web_program import python, running_page
from tests.visualglm.web.test_page_access import find_faults, read_axe

pytestmark = BROWSER_TESTS
ASKED = "What colour is the star?"
PLACE = "lower left"
MAP, STATUS, WORD = "#image-panel .image-map", "#log .explanation:not([hidden]) .explanation-status", "#log .word"
SELECTED = f"{WORD}[aria-pressed=true]"


@pytest.fixture(scope="module")
def page_url() -> Iterator[str]:
    """The URL of a page with visualglm-tiny, whose network runs in the program."""
    program = python("-c", "import sys, web_demo; sys.exit(web_demo.main())", "--from_pretrained", "visualglm-tiny")
    with running_page(program) as address:
        yield address


def asks_about_the_scene(person: Person, question: str = ASKED) -> None:
    person.sets("temperature", 0)
    person.gives(SCENE)
    person.asks(question)
    person.waits()


def explains(person: Person, shown: str = STATUS) -> None:
    """Press the button under the answer, and wait for the explanation."""
    person.acts("explain")
    person.locates(WORD).not_to_have_count(0)
    person.locates(shown).to_be_visible()


def test_a_click_on_a_word_lights_up_the_image_until_it_is_closed(person: Person) -> None:
    asks_about_the_scene(person)
    person.page.locator("#log .answer > .text").click(position={"x": 3, "y": 8})
    person.locates(SELECTED).to_have_text("The")
    person.locates(MAP).to_be_visible()
    person.page.locator(WORD, has_text="red").click()
    person.locates(SELECTED).to_have_text("red")
    person.sees(PLACE, STATUS)
    person.keeps("explanation")
    person.page.locator(WORD, has_text="is").click()
    person.locates(f"{SELECTED}.weak").to_have_count(1)
    person.locates(MAP).to_be_hidden()
    person.sees_no(PLACE, STATUS)
    person.clicks("Whole answer")
    person.sees(PLACE, STATUS)
    person.clicks("Plain image")
    person.locates(MAP).to_be_hidden()
    person.locates(WORD).to_have_count(0)
    person.locates("#log .answer > .text").to_have_text("The star is red.")


def test_the_keyboard_chooses_words_and_goes_back(person: Person) -> None:
    asks_about_the_scene(person)
    explains(person, MAP)
    person.locates(f"{WORD}:focus").to_have_text("The")
    person.page.keyboard.press("End")
    person.page.keyboard.press("Enter")
    person.locates(f"{SELECTED}:focus").to_have_text("red")
    person.sees(PLACE, STATUS)
    person.page.keyboard.press("Escape")
    person.locates(WORD).to_have_count(0)
    person.locates(MAP).to_be_hidden()
    person.locates("#log [data-action=explain]:focus").to_have_count(1)


def test_an_old_answer_is_explained_after_a_reload(person: Person) -> None:
    asks_about_the_scene(person, "Is there a fish?")
    person.asks(ASKED)
    person.waits()
    person.reloads()
    person.locates("#log .round").to_have_count(2)
    explains(person, MAP)
    person.acts("explain", 0)  # the other answer, which no part of the image decides
    person.sees("No single part", STATUS)
    person.locates(MAP).to_be_hidden()
    person.locates("#log .explanation:visible").to_have_count(1)


@pytest.mark.parametrize(("device", "query", "least"), [(PHONE, "?lang=zh", 44), (DESKTOP, "?lang=en", 24)])
def test_an_explained_answer_is_accessible(enter: Any, device: dict[str, Any], query: str, least: int) -> None:
    person = enter(query=query, **device)
    asks_about_the_scene(person, "小汽车是什么颜色？")
    person.page.evaluate(read_axe())
    explains(person, MAP)
    person.page.locator(WORD, has_text="紫色").click()
    person.locates(SELECTED).to_have_count(1)
    person.keeps(f"explanation-{least}")
    assert find_faults(person.page, least) == []
