"""The log of the page in a browser: questions and answers, their phases, notes, versions and actions."""

from typing import Any

import pytest

from tests.helpers.browser import BROWSER_TESTS, Person, wait_until
from tests.helpers.cli_program import SCENE

pytestmark = BROWSER_TESTS
MARKUP = "<img src='http://127.0.0.1:9/x.png' onerror='document.title=1'> **bold** &lt; [a](http://127.0.0.1:9/) <sop>"
SPACED = "say two  spaces,\n    four\tand a tab"
# Records the texts of the announcer, and how often other rounds than the last one change.
OBSERVE = """() => {
    window.announced = [];
    new MutationObserver(() => {
        const text = document.getElementById("announcer").textContent;
        if (text) window.announced.push(text);
    }).observe(document.getElementById("announcer"), { childList: true, characterData: true, subtree: true });
}"""


def texts(person: Person, selector: str) -> list[str]:
    """Return the texts of the elements that a selector matches."""
    found: list[str] = person.page.locator(selector).all_text_contents()
    return found


def fill_with_turns(person: Person, count: int) -> None:
    """Put turns into the open conversation, and show them."""
    person.page.evaluate(
        """async (count) => {
            const app = await window.visualglm.app;
            let parent = null;
            for (let number = 0; number < count; number += 1) {
                const node = {
                    id: `n${number}`, parent, question: `question ${number}`, answer: `answer ${number}\\n`.repeat(3),
                    status: "done", error: "", phase: null, stats: null, settings: null, model: 0,
                    created: number, updated: number,
                };
                app.conversation.nodes[node.id] = node;
                parent = node.id;
            }
            app.emit("open");
        }""",
        count,
    )


def test_questions_and_answers_have_authors(person: Person) -> None:
    person.asks_and_sees("say hello", "hello")
    assert person.page.get_by_role("log").count() == 1
    assert person.page.get_by_role("article", name="You").inner_text().startswith("You")
    answer = person.page.get_by_role("article", name="visualglm-tiny")
    assert answer.locator(".author").inner_text() == "visualglm-tiny"
    assert answer.locator(".text").inner_text() == "hello"


def test_markup_is_shown_as_text(person: Person) -> None:
    person.asks_and_sees(f"say {MARKUP}", MARKUP)
    assert texts(person, "#log .question .text") == [f"say {MARKUP}"]
    assert texts(person, "#log .answer .text") == [MARKUP]
    assert person.page.locator("#log img, #log a, #log strong").count() == 0
    assert person.page.title().endswith(" - VisualGLM")  # the markup would change it


def test_texts_have_their_language(person: Person) -> None:
    person.asks_and_sees("say 你好", "你好")
    person.asks_and_sees("say good day", "good day")
    person.asks_and_sees("say 123", "123")
    languages = person.page.locator("#log .answer .text").evaluate_all("(nodes) => nodes.map(({ lang }) => lang)")
    assert languages == ["zh-CN", "en", ""]


def test_text_is_copied_as_it_was_written(enter: Any) -> None:
    person = enter(permissions=["clipboard-read", "clipboard-write"])
    person.asks_and_sees(SPACED, "four")
    read = "navigator.clipboard.readText()"
    person.acts("copy")
    person.page.get_by_role("button", name="Copied").wait_for()
    assert person.page.evaluate(read) == SPACED.removeprefix("say ")
    person.acts("copy-question")
    wait_until(person.page, f"(await {read}).startsWith('say')")
    assert person.page.evaluate(read) == SPACED
    person.page.locator("#log .answer .text").evaluate("(node) => getSelection().selectAllChildren(node)")
    person.page.keyboard.press("Control+C")
    wait_until(person.page, f"(await {read}).startsWith('two')")
    assert person.page.evaluate(read) == SPACED.removeprefix("say ")


def test_text_is_copied_without_the_clipboard_interface(enter: Any) -> None:
    person = enter(permissions=["clipboard-read", "clipboard-write"])
    person.asks_and_sees(SPACED, "four")
    write = "Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })"
    person.page.evaluate(f"window.kept = navigator.clipboard; {write}; 0")
    person.acts("copy")
    person.page.get_by_role("button", name="Copied").wait_for()
    assert person.page.evaluate("window.kept.readText()") == SPACED.removeprefix("say ")


def test_phases_are_shown_in_words(person: Person) -> None:
    person.asks("phases")
    person.locates("#log .dots:visible").to_have_count(1)
    for phase in "waiting: 2 before you", "reading the image", "reading the prompt", "12 tokens":
        person.sees(phase, "#log .phase")
    person.sees("The beginning", "#log .answer .text")
    person.keeps("phase")
    person.waits()
    assert person.page.locator("#log .dots:visible").count() == 0


def test_the_question_and_dots_are_there_before_the_server_answers(person: Person) -> None:
    person.page.route("**/page/answers*", lambda route: None)  # never answered
    person.asks("hello")
    person.locates("#log .question .text").to_have_text("hello")
    person.locates("#log .dots:visible").to_have_count(1)


def test_phases_follow_the_language(person: Person) -> None:
    person.page.route("**/page/answers*", lambda route: None)
    person.asks("hello")
    person.page.evaluate(
        """window.visualglm.app.then((app) => {
            const [node] = Object.values(app.conversation.nodes);
            node.phase = { type: "phase", phase: "waiting", ahead: 2 };
            app.emit("node", node);
        })"""
    )
    person.sees("waiting: 2 before you", "#log .phase")
    person.page.locator("#language").click()
    person.sees("前面还有 2 个", "#log .phase")
    person.sees("你", "#log .question .author")


def test_numbers_stand_under_an_answer(person: Person) -> None:
    person.sets("seed", 42)
    person.asks_and_sees("dropped", "short memory")
    statistics = texts(person, "#log .statistics")[0]
    for part in "12 tokens", "3.3 s", "4.0 tokens/s", "seed 42":
        assert part in statistics
    person.sees("2 oldest turns", "#log .notes")
    person.sets("seed", None)
    person.asks_and_sees("Is there a car?", "no")
    seed = person.conversation()["nodes"].popitem()[1]["stats"]["seed"]
    assert f"seed {seed}" in texts(person, "#log .statistics")[1]


def test_a_truncated_answer_is_part_of_the_conversation(person: Person) -> None:
    person.asks_and_sees("cut", "max_length")
    person.asks_and_sees("seen", "turns [cut]")


def test_stopped_and_failed_answers_are_not_part_of_the_conversation(person: Person) -> None:
    person.asks("slow")
    person.sees("number2 ", "#log")
    person.page.keyboard.press("Escape")
    person.sees("Stopped", "#log .notes")
    person.asks("break")
    person.locates("#log .notes .error").to_have_count(2)
    person.sees("It begins", "#log")
    person.keeps("failed")
    person.asks_and_sees("seen", "turns []")
    person.acts("again")
    person.locates("#log .round").to_have_count(2)
    person.locates("#log .notes .error").to_have_count(2)
    person.sees("2/2", "#log .versions:visible")


def test_a_screen_reader_hears_an_answer_once(person: Person) -> None:
    person.page.evaluate(OBSERVE)
    person.asks_and_sees("paragraphs", "the end")
    person.page.wait_for_function("window.announced.length > 0")
    assert person.page.locator("#log").get_attribute("aria-live") == "off"
    announced = person.page.evaluate("window.announced")
    assert len(announced) == 1
    assert announced[0].startswith("visualglm-tiny: line 0")
    assert announced[0].endswith("the end")


def test_scrolling_up_while_an_answer_grows_is_left_alone(enter: Any) -> None:
    person = enter(viewport={"width": 900, "height": 500})
    person.asks_and_sees("paragraphs", "the end")
    person.asks("paragraphs")
    person.sees("line 3", "#log .round:last-child .answer")
    assert person.page.locator("#log").evaluate("(log) => log.scrollHeight - log.clientHeight - log.scrollTop") < 1
    person.page.locator("#log").hover()
    person.page.mouse.wheel(0, -400)
    person.page.get_by_role("button", name="To the newest").wait_for()
    person.page.wait_for_timeout(300)  # the end of a smooth scroll
    top = person.page.locator("#log").evaluate("(log) => log.scrollTop")
    person.sees("line 30", "#log .round:last-child .answer")
    assert abs(person.page.locator("#log").evaluate("(log) => log.scrollTop") - top) < 2
    person.keeps("scrolled_up")
    person.clicks("To the newest")
    person.waits()
    log = "document.getElementById('log')"
    wait_until(person.page, f"{log}.scrollHeight - {log}.clientHeight - {log}.scrollTop < 2")
    assert not person.page.get_by_role("button", name="To the newest").is_visible()


def test_older_rounds_are_retried_as_versions(person: Person) -> None:
    person.sets("temperature", 0.5)
    person.asks_and_sees("seen", "temperature 0.5")
    person.asks_and_sees("say later", "later")
    person.sets("temperature", 0.7)
    person.acts("retry", 0)
    person.sees("temperature 0.7", "#log")
    person.waits()
    person.sees_no("later", "#log")
    person.sees("2/2", "#log .versions:visible")
    person.acts("previous")
    person.sees("temperature 0.5", "#log")
    person.sees("later", "#log")
    assert person.focused("data-action") == "previous"
    person.page.keyboard.press("ArrowRight")
    person.sees("temperature 0.7", "#log")
    person.sees_no("later", "#log")
    person.page.keyboard.press("ArrowLeft")
    person.sees("temperature 0.5", "#log")
    assert person.page.get_by_role("group", name="Version 1 of 2").count() == 1
    person.keeps("versions")
    person.reloads()
    person.sees("temperature 0.5", "#log")
    person.sees("later", "#log")
    person.sees("1/2", "#log .versions:visible")


def test_a_question_is_edited(person: Person) -> None:
    person.asks_and_sees("say one", "one")
    person.acts("edit")
    field = person.page.get_by_label("Question", exact=True)
    width = person.page.locator("#log .round").evaluate("(node) => node.clientWidth")
    assert field.bounding_box()["width"] > 0.9 * width
    person.keeps("edit")
    field.fill("say other")
    field.press("Escape")
    assert person.focused("data-action") == "edit"
    assert texts(person, "#log .question .text") == ["say one"]
    person.acts("edit")
    field.fill("say two")
    field.press("Shift+Enter")
    field.press_sequentially("lines")
    field.press("Enter")
    person.locates("#log .answer .text").to_have_text("two\nlines")
    person.waits()
    person.acts("previous")
    person.locates("#log .answer .text").to_have_text("one")


def test_editing_survives_a_growing_answer(person: Person) -> None:
    person.asks_and_sees("say one", "one")
    person.asks("paragraphs")
    person.acts("edit", 0)
    person.page.get_by_label("Question", exact=True).fill("say two")
    person.sees("the end", "#log")
    person.waits()
    assert person.page.get_by_label("Question", exact=True).input_value() == "say two"
    assert person.focused("aria-label") == "Question"


def test_an_empty_question_cannot_be_saved(person: Person) -> None:
    person.asks_and_sees("say one", "one")
    person.acts("edit")
    field = person.page.get_by_label("Question", exact=True)
    field.fill("  ")
    field.press("Enter")
    assert person.page.get_by_role("button", name="Ask", exact=True).is_disabled()
    field.fill("x" * 10_001)
    person.sees("10,000", "#log .hint")
    field.press("Enter")
    assert len(person.conversation()["nodes"]) == 1


def test_a_deleted_round_comes_back(person: Person) -> None:
    person.asks_and_sees("say one", "one")
    person.asks_and_sees("say two", "two")
    person.acts("delete")
    person.sees_no("two", "#log")
    assert person.page.locator("#log").evaluate("(log) => log.contains(document.activeElement)")
    person.clicks("Undo")
    person.sees("two", "#log")
    person.acts("delete", 0)
    person.sees_no("say", "#log")
    assert person.focused("id") == "question"
    person.reloads()
    person.sees_no("say", "#log")


def test_follow_up_questions_are_asked_by_a_click(person: Person) -> None:
    person.gives(SCENE)
    person.asks("Is there a car?")
    person.waits()
    first = person.page.locator("#log .follow-up").first
    question = first.inner_text()
    person.keeps("follow_ups")
    first.click()
    person.locates("#log .round").to_have_count(2)
    person.waits()
    assert texts(person, "#log .question .text")[1] == question
    person.locates("#log .follow-up").not_to_have_count(0)
    assert question not in texts(person, "#log .follow-up")
    assert person.page.evaluate("document.activeElement !== document.body")
    person.page.locator("#language").click()
    wait_until(person.page, "/[一-龥]/.test(document.querySelector('#log .follow-up')?.textContent)")


def test_only_the_growing_answer_is_drawn(person: Person) -> None:
    fill_with_turns(person, 999)
    person.locates("#log .round").to_have_count(999)
    person.asks("paragraphs")
    person.sees("line 1", "#log .round:last-child .answer")
    person.page.evaluate(
        """() => {
            window.changed = new Set();
            new MutationObserver((records) => {
                for (const { target } of records) window.changed.add(target.parentElement?.closest(".round") ?? target);
            }).observe(document.querySelector("#log"), {
                childList: true, characterData: true, attributes: true, subtree: true,
            });
        }"""
    )
    person.sees("the end", "#log .round:last-child .answer")
    person.waits()
    changed = person.page.evaluate(
        "[...window.changed].filter((node) => node.matches('.round:not(:last-child)')).length"
    )
    assert changed == 0
    assert person.page.evaluate("window.changed.size") > 0


@pytest.mark.parametrize(("has_touch", "least"), [(False, 24), (True, 44)])
def test_controls_have_names_and_are_large_enough(has_touch: bool, least: int, enter: Any) -> None:
    person = enter(viewport={"width": 390, "height": 844}, has_touch=has_touch, is_mobile=has_touch)
    person.gives(SCENE)
    person.asks_and_sees("seen", "turns")
    person.acts("retry")
    person.waits()
    person.acts("edit")
    controls = person.page.locator("#log button:visible").evaluate_all(
        """(nodes) => nodes.map((node) => {
            const { width, height } = node.getBoundingClientRect();
            return [node.getAttribute("aria-label") ?? node.textContent.trim(), width, height];
        })"""
    )
    assert len(controls) >= 6
    assert all(name for name, _, _ in controls)
    assert [control for control in controls if min(control[1:]) < least] == []


def test_two_settings_are_compared(person: Person) -> None:
    person.sets("temperature", 0.5)
    person.page.get_by_role("button", name="Compare two answers").click()
    person.page.get_by_label("temperature of B").fill("0.9")
    person.keeps("compare_dialog")
    person.page.get_by_role("dialog").get_by_role("button", name="Compare", exact=True).click()
    person.sees("B: temperature 0.9", ".comparison-bar")
    person.asks("seen")
    person.locates("#log .columns .answer").to_have_count(2)
    person.waits()
    assert texts(person, "#log .columns .text") == [
        "turns [] image None en temperature 0.5",
        "turns [] image None en temperature 0.9",
    ]
    assert texts(person, "#log del") == ["5"]
    assert texts(person, "#log ins") == ["9"]
    person.keeps("compared")
    person.reloads()
    person.locates("#log .columns .answer").to_have_count(2)
    person.clicks("Go on with B")
    person.locates("#log .columns").to_have_count(0)
    person.sees("temperature 0.9", "#log")
    person.sees("2/2", "#log .versions:visible")
    person.clicks("Stop comparing")
    person.asks_and_sees("seen", "turns [seen]")
    assert len(person.conversation()["nodes"]) == 3
    person.acts("compare", 0)
    person.locates("#log .columns .answer").to_have_count(2)


def test_columns_stand_one_under_the_other_on_a_phone(enter: Any) -> None:
    for width, height in (390, 844), (1440, 900):
        person = enter(viewport={"width": width, "height": height})
        person.page.get_by_role("button", name="Compare two answers").click()
        person.page.get_by_role("dialog").get_by_role("button", name="Compare", exact=True).click()
        person.asks("seen")
        person.waits()
        a, b = person.page.locator("#log .columns .answer").evaluate_all(
            "(nodes) => nodes.map((node) => node.getBoundingClientRect().toJSON())"
        )
        assert (a["bottom"] <= b["top"]) == (width == 390)
        assert (a["right"] <= b["left"]) == (width == 1440)


def test_chinese_differences_are_marked_by_character(person: Person) -> None:
    parts = person.page.evaluate(
        """async () => {
            const folder = document.querySelector("script[src$='main.js']").src;
            const { compareTexts } = await import(new URL("compare/diff.js", folder));
            return [
                compareTexts("小汽车是紫色的。", "小汽车是红色的。"),
                compareTexts("The red car, here.", "The blue car is here."),
                compareTexts("", "a"),
            ];
        }"""
    )
    marked = [
        ["".join(f"[{p['text']}]" if not p["isCommon"] else p["text"] for p in side) for side in pair] for pair in parts
    ]
    assert marked == [
        ["小汽车是[紫]色的。", "小汽车是[红]色的。"],
        ["The [red] car[,] here.", "The [blue] car[ is] here."],
        ["", "[a]"],
    ]
