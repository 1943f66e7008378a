"""Retried answers in a browser: another seed than a fixed one, greedy answers, and a server that stops."""

from typing import Any

import pytest

from tests.helpers.browser import BROWSER_TESTS, Person
from tests.helpers.page_modules import call_app
from tests.helpers.ports import free_port
from tests.helpers.web_program import PROGRAM, running_page

pytestmark = BROWSER_TESTS
COMPARE = """(app) => {
    app.comparison = { sides: [{ model: 0, settings: {} }, { model: 0, settings: { top_k: 5 } }] };
    app.emit("comparison");
}"""


def seeds(person: Person) -> list[int]:
    """Return the seeds of the answers, the oldest first."""
    nodes = sorted(person.conversation()["nodes"].values(), key=lambda node: (node["created"], node.get("side", 0)))
    return [node["stats"]["seed"] for node in nodes]


def retries(person: Person) -> None:
    person.acts("retry")
    person.waits()


@pytest.mark.parametrize(("query", "text"), [("?lang=en", "another seed was used"), ("?lang=zh", "使用了另一个 seed")])
def test_a_retry_with_a_fixed_seed_takes_another_one_and_says_so(enter: Any, query: str, text: str) -> None:
    person = enter(query=query)
    person.sets("seed", 7)
    person.asks_and_sees("say hello", "hello")
    person.sees_no(text, "#log")
    for _ in range(2):
        retries(person)
        person.sees(text, "#log .notes")
    first, *others = seeds(person)
    assert first == 7
    assert len({first, *others}) == 3
    person.sees(f"seed {others[-1]}", "#log .statistics")
    person.sets("top_k", 5)  # another answer, for which the seed may stay
    retries(person)
    person.sees_no(text, "#log")
    assert seeds(person)[-1] == 7


def test_a_copied_seed_gives_the_same_answer_once_more(person: Person) -> None:
    person.asks_and_sees("say hello", "hello")
    (seed,) = seeds(person)
    person.sets("seed", seed)
    retries(person)
    assert seeds(person) == [seed, seed]


def test_both_compared_answers_take_the_same_other_seed(person: Person) -> None:
    person.sets("seed", 7)
    call_app(person, COMPARE)
    person.asks("say hello")
    person.locates("#log .columns .answer").to_have_count(2)
    person.waits()
    retries(person)
    first, second, third, fourth = seeds(person)
    assert first == second == 7
    assert third == fourth != 7


def test_a_greedy_retry_says_that_the_answer_stays_the_same(person: Person) -> None:
    person.sets("temperature", 0)
    person.asks_and_sees("say hello", "hello")
    person.sees_no("stays the same", "#log")
    retries(person)
    person.sees("stays the same", "#log .notes")
    person.sets("temperature", 0.5)
    retries(person)
    person.sees_no("stays the same", "#log")


def test_an_answer_that_a_stopped_server_cuts_is_kept_and_can_be_retried(chromium: Any) -> None:
    command = [*PROGRAM, "--server_port", str(free_port())]
    with chromium.new_context(locale="en-GB") as context:
        with running_page(command) as url:
            person = Person(context.new_page(), url)
            person.opens()
            person.asks("slow")
            person.sees("number5", "#log .answer")
        person.waits()
        (node,) = person.conversation()["nodes"].values()
        assert node["status"] == "failed"
        assert node["answer"].startswith("number0 number1 ")
        person.sees("number5", "#log .answer")
        person.sees("cannot be reached", "#log .notes")
        with running_page(command):
            person.acts("again")
            person.sees("number2", "#log .answer")
            person.page.keyboard.press("Escape")
            person.waits()
        assert [node["status"] for node in person.conversation()["nodes"].values()] == ["failed", "stopped"]
        assert person.failures == []
