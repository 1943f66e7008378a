"""Browser tests of the page's store and list of conversations: storing, searching, deleting."""

import json
from typing import Any

import pytest

from tests.helpers.browser import BROWSER_TESTS, PATIENCE_MS, READY, Person, wait_until
from tests.helpers.cli_program import SCENE
from tests.helpers.page_modules import call_app, call_module
from tests.helpers.ports import free_port
from tests.helpers.web_program import DRAWN, PROGRAM, running_page

pytestmark = BROWSER_TESTS
ROWS = "#conversations .history-row"
ADD_CONVERSATIONS = """async (app, count) => {
    for (let index = 0; index < count; index += 1) {
        const id = `c${index}`;
        const node = { id: `n${index}`, parent: null, question: `question ${index}`, answer: "A Red ball, a red box.",
            status: "done", created: 1, updated: 1 };
        const conversation = { id, title: "", created: 1, updated: Date.now() - index * 3600e3, imageId: null,
            imageName: "", nodes: { [node.id]: node }, chosen: {}, draft: "" };
        await app.store.put("conversations", conversation);
    }
    app.emit("list", null);
}"""
RECORDS = """async (app) => {
    const counts = {};
    for (const table of ["conversations", "images", "values"]) counts[table] = (await app.store.all(table)).length;
    return counts;
}"""


def answers(person: Person) -> list[tuple[str, str]]:
    """Return the questions of the open conversation with the status of their answers."""
    nodes = sorted(person.conversation()["nodes"].values(), key=lambda node: node["created"])
    return [(node["question"], node["status"]) for node in nodes]


def waits_for(person: Person, expected: list[tuple[str, str]]) -> None:
    """Wait until the open conversation has these questions and statuses, in any order."""
    wanted = json.dumps(sorted(" ".join(pair) for pair in expected))
    found = "Object.values(app.conversation.nodes).map(({ question, status }) => `${question} ${status}`).sort()"
    wait_until(person.page, f"JSON.stringify({found}) === JSON.stringify({wanted})")


def second_tab(person: Person) -> Person:
    tab = Person(person.page.context.new_page(), person.url)
    tab.opens()
    return tab


def opens_list(person: Person) -> None:
    if person.page.locator("#conversations").is_hidden():
        person.page.click("#menu-button")


def chooses(person: Person, row: int, action: str) -> None:
    """Choose an action in the menu of a row of the list."""
    person.page.locator(f"{ROWS} .icon-button").nth(row).click()
    person.page.get_by_role("menuitem", name=action).click()


# What a reload, a closed tab and a restart of the server leave.


def test_a_reload_keeps_conversation_image_draft_and_settings(person: Person) -> None:
    person.gives(SCENE)
    person.asks_and_sees("seen", "image")
    person.sets("temperature", 0.5)
    person.page.fill("#question", "half a question")
    person.reloads()  # at once: the draft is not in the database yet
    assert answers(person) == [("seen", "done")]
    assert person.page.input_value("#question") == "half a question"
    assert call_app(person, "(app) => app.settings.temperature") == 0.5
    person.page.fill("#question", "")
    first = person.page.locator("#log .answer").first.text_content()
    person.asks("seen")
    person.page.wait_for_function("document.querySelectorAll('#log .answer').length === 2")
    person.sees("turns [seen]", "#log")
    assert first is not None
    assert first.split("image ")[1].split()[0] in (person.page.locator("#log .answer").last.text_content() or "")


def test_a_running_answer_is_kept_as_stopped(person: Person) -> None:
    person.asks("slow")
    person.sees("number5", "#log")
    person.reloads()
    assert answers(person) == [("slow", "stopped")]
    person.sees("number5", "#log")
    assert call_app(person, "(app) => app.running.size") == 0
    person.asks_and_sees("seen", "turns []")  # what is not complete does not go into the next prompt


def test_a_frozen_tab_that_is_dropped_loses_nothing(person: Person) -> None:
    context = person.page.context
    person.asks_and_sees("seen", "turns")
    # A phone freezes the tab, then drops it. No write to the database ends.
    person.page.evaluate(
        """async () => {
            const app = await window.visualglm.app;
            app.store.put = () => new Promise(() => {});
            app.setDraft("typed last");
            document.dispatchEvent(new Event("freeze"));
        }"""
    )
    tab = Person(context.new_page(), person.url)
    person.page.close()
    tab.opens()
    assert answers(tab) == [("seen", "done")]
    assert tab.page.input_value("#question") == "typed last"


def test_an_image_survives_a_reload_during_its_upload(person: Person) -> None:
    person.page.route("**/page/images*", lambda route: None)  # it is never answered
    person.page.locator("#image-panel input[type=file]").first.set_input_files(SCENE)
    stored = "await app.store.get('images', app.conversation.imageId)"
    wait_until(person.page, f"app.images.uploads.size === 1 && app.conversation.imageId && {stored}")
    person.page.unroute("**/page/images*")
    person.reloads()
    assert person.conversation()["imageId"]
    person.asks("seen")
    person.waits()
    person.sees_no("image None", "#log")


def test_a_conversation_goes_on_after_a_restart_of_the_server(chromium: Any) -> None:
    command = [*PROGRAM, "--server_port", str(free_port())]
    with chromium.new_context() as context:
        with running_page(command) as url:
            person = Person(context.new_page(), url)
            person.opens()
            person.gives(SCENE)
            person.asks_and_sees("seen", "turns []")
            color = (person.page.locator("#log .answer").first.text_content() or "").split("image ")[1].split()[0]
            assert color != "None"
        with running_page(command):  # the page was not reloaded; its server knows no image
            person.asks("seen")
            person.sees("turns [seen]", "#log")
            assert f"image {color}" in (person.page.locator("#log .answer").last.text_content() or "")
        assert person.failures == []


# Two tabs.


def test_two_tabs_see_each_other_s_turns(person: Person) -> None:
    person.asks_and_sees("seen", "turns []")
    tab = second_tab(person)
    assert answers(tab) == [("seen", "done")]
    tab.page.fill("#question", "draft of the second tab")
    person.asks_and_sees("cut", "too long")
    tab.sees("too long", "#log")
    assert tab.page.input_value("#question") == "draft of the second tab"
    tab.asks_and_sees("closed", "closed")
    person.sees("closed", "#log")
    expected = [("seen", "done"), ("cut", "truncated"), ("closed", "done")]
    assert answers(person) == answers(tab) == expected
    for one in (person, tab):
        one.reloads()
        assert answers(one) == expected
    assert tab.failures == []


def test_two_tabs_keep_drafts_of_their_own(person: Person) -> None:
    person.asks_and_sees("seen", "turns []")
    tab = second_tab(person)
    person.page.fill("#question", "first")
    tab.page.fill("#question", "second")
    for one, draft in ((person, "first"), (tab, "second")):
        one.reloads()
        assert one.page.input_value("#question") == draft


def test_another_tab_shows_a_running_answer_until_its_tab_is_gone(person: Person) -> None:
    person.asks("slow")
    person.sees("number2", "#log")
    tab = second_tab(person)
    tab.sees("number", "#log")
    length = "Object.values(app.conversation.nodes)[0].answer.length"
    before = call_app(tab, f"(app) => {length}")
    wait_until(tab.page, f"{length} > {before}")  # the tab that writes it has replied
    waits_for(tab, [("slow", "running")])
    person.page.close()
    waits_for(tab, [("slow", "stopped")])


def test_questions_of_two_tabs_at_once_are_both_kept(person: Person) -> None:
    tab = second_tab(person)
    for one, question in ((person, "seen"), (tab, "cut")):
        call_app(one, "(app, text) => { app.setDraft(text); }", question)
    opened = person.conversation()["id"]
    call_app(person, "(app) => app.saveNow()")
    call_app(tab, "async (app, id) => app.show(await app.store.get('conversations', id))", opened)
    for one, question in ((person, "seen"), (tab, "cut")):
        one.page.fill("#question", question)
    for one in (person, tab):
        one.page.press("#question", "Enter")
    for one in (person, tab):
        waits_for(one, [("seen", "done"), ("cut", "truncated")])


def test_versions_of_a_conversation_are_merged(person: Person) -> None:
    def node(updated: int, **details: Any) -> dict[str, Any]:
        return {"updated": updated, "status": "done", **details}

    stored = {"id": "c", "updated": 5, "title": "new", "chosen": {"start": "b"}, "draft": "old", "draftUpdated": 1}
    written = {"id": "c", "updated": 4, "title": "old", "chosen": {"a": "x"}, "draft": "typed", "draftUpdated": 9}
    stored["nodes"] = {"a": node(1), "b": node(7, answer="long")}
    written["nodes"] = {"a": node(2, answer="later"), "b": node(6), "x": node(1)}
    merged = call_module(
        person,
        "store/merging.js",
        "(module, [stored, written]) => module.mergeConversations(stored, written)",
        [stored, written],
    )
    assert set(merged["nodes"]) == {"a", "b", "x"}
    assert merged["nodes"]["a"]["answer"] == "later"
    assert merged["nodes"]["b"]["answer"] == "long"
    assert (merged["title"], merged["draft"]) == ("new", "typed")
    assert merged["chosen"] == {"start": "b", "a": "x"}


# A store that does not work.

NO_STORAGE = "indexedDB.open = () => { throw new DOMException('no storage', 'SecurityError'); };"
NO_REPLY = "indexedDB.open = () => ({});"
BLOCKED = "indexedDB.open = () => { const request = {}; setTimeout(() => request.onblocked()); return request; };"
STUBS = {
    "unavailable": (NO_STORAGE, "private window"),
    "blocked": (BLOCKED, "older version"),
    "no reply": (NO_REPLY, "Another tab"),
}


@pytest.mark.parametrize(("script", "text"), STUBS.values(), ids=STUBS.keys())
def test_without_storage_the_page_works_and_says_so(person: Person, script: str, text: str) -> None:
    person.page.add_init_script(script.replace("indexedDB.open =", "IDBFactory.prototype.open ="))
    person.opens()
    person.sees(text, "#toasts")
    person.gives(SCENE)
    person.asks_and_sees("seen", "image")
    opens_list(person)
    person.sees(text, "#conversations .history-note")
    person.locates(ROWS).to_have_count(1)
    with person.page.expect_download() as waiting:
        person.page.click("#conversations .history-note button")
    assert waiting.value.suggested_filename.endswith(".json")


def test_a_newer_database_does_not_stop_the_page(person: Person) -> None:
    person.page.evaluate(
        """async () => {
            (await window.visualglm.app).store.database.close();
            await new Promise((resolve) => {
                indexedDB.open("visualglm", 99).onsuccess = (event) => resolve(event.target.result.close());
            });
        }"""
    )
    person.opens()
    person.sees("newer version", "#toasts")
    person.asks_and_sees("cut", "too long")


def test_a_newer_page_in_another_tab_may_change_the_database(person: Person) -> None:
    person.page.fill("#question", "typed")
    upgraded = second_tab(person).page.evaluate(
        """async () => {
            (await window.visualglm.app).store.database.close();
            return new Promise((resolve) => {
                const request = indexedDB.open("visualglm", 2);
                request.onblocked = () => resolve("blocked");
                request.onsuccess = () => resolve("opened");
            });
        }"""
    )
    assert upgraded == "opened"
    person.sees("Reload", "#toasts")
    person.asks_and_sees("cut", "too long")
    assert call_app(person, "(app) => app.store.reason") == "outdated"


def test_a_full_store_keeps_everything_in_memory_and_says_so(person: Person) -> None:
    person.page.evaluate(
        """() => {
            window.put = IDBObjectStore.prototype.put;
            IDBObjectStore.prototype.put = () => { throw new DOMException("full", "QuotaExceededError"); };
        }"""
    )
    person.gives(SCENE)
    person.asks_and_sees("seen", "image")
    person.locates("#toasts .error").to_have_count(1)  # it is said once
    person.sees("full", "#toasts .error")
    opens_list(person)
    person.locates(ROWS).to_have_count(1)
    person.page.click("#new-conversation")
    person.page.locator(f"{ROWS} .history-open").click()
    person.sees("turns []", "#log")
    person.page.evaluate("() => void (IDBObjectStore.prototype.put = window.put)")
    person.asks_and_sees("cut", "too long")
    person.reloads()  # there is space again: what was in memory has been stored
    assert answers(person) == [("seen", "done"), ("cut", "truncated")]


# The list.


def test_the_list_opens_renames_and_deletes(person: Person) -> None:
    person.gives(SCENE)
    person.asks_and_sees("seen", "turns []")
    opens_list(person)
    person.page.click("#new-conversation")
    person.asks_and_sees("cut", "too long")
    person.sees("Today", "#conversations h3")
    person.locates(ROWS).to_have_count(2)
    person.page.wait_for_selector(f"{ROWS} img.thumbnail[src^='data:image/jpeg']")
    person.page.locator(f"{ROWS} .history-open").last.click()
    person.sees("turns []", "#log")
    person.locates(f"{ROWS} [aria-current=true]").to_have_count(1)
    chooses(person, 1, "Rename")
    person.page.fill("dialog input", "My scene")
    person.page.press("dialog input", "Enter")
    person.sees("My scene", "#conversations")
    chooses(person, 0, "Delete")
    person.locates(ROWS).to_have_count(1)
    assert person.conversation()["nodes"] == {}  # the open one was deleted
    person.page.locator("#toasts").get_by_role("button", name="Undo").click()
    person.sees("My scene", "#conversations")
    person.sees("turns []", "#log")
    person.reloads()
    assert person.conversation()["title"] == "My scene"


def test_the_list_says_which_conversation_is_answered(person: Person) -> None:
    opens_list(person)
    person.asks("slow")
    person.sees("answering", ROWS)
    person.page.click("#new-conversation")
    person.asks_and_sees("cut", "too long")
    person.locates(ROWS).to_have_count(2)
    person.sees("answering", "#conversations")
    person.page.locator(ROWS, has_text="answering").locator(".history-open").click()
    person.locates("#question").to_be_focused()  # Escape in the list would close it
    person.page.keyboard.press("Escape")
    person.sees_no("answering", "#conversations")


def test_an_open_menu_stays_while_the_list_changes(person: Person) -> None:
    person.asks_and_sees("say something", "something")
    opens_list(person)
    person.page.locator(f"{ROWS} .icon-button").click()
    person.page.evaluate("window.visualglm.app.then((app) => app.emit('list', app.conversation.id))")
    person.page.wait_for_timeout(300)  # the list draws its changes after 80 ms
    person.page.keyboard.press("ArrowDown")
    assert person.focused("role") == "menuitem"


def test_a_deleted_answer_in_progress_stays_deleted(person: Person) -> None:
    opens_list(person)
    person.asks("slow")
    person.sees("number2", "#log")
    chooses(person, 0, "Delete")
    person.locates(ROWS).to_have_count(0)
    wait_until(person.page, "app.running.size === 0")
    person.reloads()
    assert call_app(person, RECORDS)["conversations"] == 0


def test_a_search_finds_words_of_questions_and_answers(person: Person) -> None:
    call_app(person, ADD_CONVERSATIONS, 1000)
    opens_list(person)
    assert person.page.locator(ROWS).count() < 200  # the rest follows on scrolling
    person.page.fill("#search", "RED BALL")
    person.sees("1,000", "#conversations .history-count")
    person.page.fill("#search", "red")
    person.sees("2,000", "#conversations .history-count")
    person.page.fill("#search", "question 777")
    person.locates(ROWS).to_have_count(1)
    person.sees("question 777", f"{ROWS} mark")
    person.sees("1 hit in 1 conversation", "#conversations .history-count")
    person.page.locator(f"{ROWS} .history-open").click()
    person.sees("question 777", "#log")
    person.page.fill("#search", "nothing has this")
    person.sees("No hits", "#conversations .history-count")
    person.locates(ROWS).to_have_count(0)
    person.page.fill("#search", "")
    person.page.locator("#conversations > .button").scroll_into_view_if_needed()
    person.page.wait_for_function(f"document.querySelectorAll('{ROWS}').length > 60")


def test_a_hit_in_another_version_is_shown(person: Person) -> None:
    call_app(
        person,
        """async (app) => {
            const shared = { parent: null, question: "q", status: "done", updated: 1 };
            const a = { id: "a", answer: "the needle", created: 1, ...shared };
            const b = { id: "b", answer: "hay", created: 2, ...shared };
            const conversation = { id: "c", title: "", created: 1, updated: 1, imageId: null, imageName: "" };
            const tree = { draft: "", nodes: { a, b }, chosen: { start: "b" } };
            await app.store.put("conversations", { ...conversation, ...tree });
        }""",
    )
    opens_list(person)
    person.page.fill("#search", "needle")
    person.page.locator(f"{ROWS} mark").wait_for()
    person.page.locator(f"{ROWS} .history-open").click()
    person.sees("the needle", "#log")


def test_images_that_no_conversation_uses_are_removed(person: Person) -> None:
    person.gives(SCENE)
    person.asks_and_sees("seen", "turns []")
    opens_list(person)
    person.page.click("#new-conversation")
    person.gives(DRAWN)
    person.asks_and_sees("cut", "too long")
    assert call_app(person, RECORDS)["images"] == 2
    person.locates(f"{ROWS}:has-text('cut') [aria-current=true]").to_have_count(1)
    chooses(person, 0, "Delete")
    assert call_app(person, RECORDS)["images"] == 2  # as long as it can be undone
    person.page.locator("#toasts .toast").get_by_role("button", name="Close").click()
    wait_until(person.page, f"(await ({RECORDS})(app)).images === 1")
    add_image = "async (app, image) => app.store.put('images', { blob: new Blob(['x']), name: '', ...image })"
    call_app(person, add_image, {"id": "orphan", "created": 1})
    person.reloads()
    wait_until(person.page, f"(await ({RECORDS})(app)).images === 1")
    person.asks_and_sees("seen", "turns []")


def test_everything_is_forgotten_in_all_tabs(person: Person) -> None:
    person.gives(SCENE)
    person.asks_and_sees("seen", "turns []")
    person.sets("temperature", 0.5)
    tab = second_tab(person)
    opens_list(person)
    person.clicks("Forget everything")
    person.sees("settings", "dialog")  # the dialog names what goes
    person.sees("images", "dialog")
    person.page.keyboard.press("Escape")
    person.locates(ROWS).to_have_count(1)
    person.clicks("Forget everything")
    person.page.get_by_role("button", name="Delete everything").click()
    person.locates(ROWS).to_have_count(0)
    for one in (person, tab):
        wait_until(one.page, "!Object.keys(app.conversation.nodes).length")
        assert call_app(one, "(app) => app.settings.temperature") != 0.5
    person.reloads()
    assert call_app(person, RECORDS)["conversations"] == call_app(person, RECORDS)["images"] == 0
    assert person.page.evaluate("Object.keys(localStorage).length") == 0
    assert answers(tab) == []


def test_the_list_is_used_by_keyboard_and_remembered(enter: Any) -> None:
    person = enter(viewport={"width": 1440, "height": 900})
    person.page.focus("#menu-button")
    person.page.keyboard.press("Enter")
    assert person.focused("id") == "new-conversation"
    person.locates("#menu-button[aria-expanded=true]").to_have_count(1)
    person.page.keyboard.press("Control+k")
    assert person.focused("id") == "search"
    person.reloads()
    person.locates("#conversations").to_be_visible()
    person.page.focus("#search")
    person.page.keyboard.press("Escape")
    assert person.focused("id") == "menu-button"
    person.locates("#conversations").to_be_hidden()


def test_on_a_phone_the_list_closes_when_a_conversation_is_chosen(enter: Any) -> None:
    person = enter(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    person.asks_and_sees("cut", "too long")
    opens_list(person)
    assert person.page.evaluate("document.getElementById('main').inert")
    for box in person.page.locator("#conversations button:visible").all():
        size = box.bounding_box()
        assert size["height"] >= 44
        assert size["width"] >= 44
    person.page.locator(f"{ROWS} .history-open").click()
    person.locates("#conversations").to_be_hidden()
    assert not person.page.evaluate("document.getElementById('main').inert")


def test_the_list_follows_the_language(person: Person) -> None:
    person.asks_and_sees("cut", "too long")
    opens_list(person)
    person.page.click("#language")
    person.sees("今天", "#conversations")
    person.sees("1 个问题", ROWS)
    person.locates("#search[aria-label='搜索对话']").to_have_count(1)


# Servers with other options.


def test_without_history_nothing_is_stored_and_the_list_says_so(chromium: Any) -> None:
    with running_page([*PROGRAM, "--no-history"]) as url, chromium.new_context(locale="en-GB") as context:
        person = Person(context.new_page(), url)
        person.opens()
        person.asks_and_sees("cut", "too long")
        opens_list(person)
        person.sees("keeps no history", "#conversations .history-note")
        person.locates(ROWS).to_have_count(1)  # in this tab
        assert person.page.evaluate("indexedDB.databases()") == []
        person.reloads()
        assert answers(person) == []
        assert person.page.evaluate("localStorage.length + sessionStorage.length") == 0
        assert person.failures == []


def test_each_login_has_a_store_of_its_own(chromium: Any) -> None:
    command = [*PROGRAM, "--auth", "ann:secret1", "--auth", "bob:secret2"]
    with running_page(command) as url, chromium.new_context(locale="en-GB") as context:
        person = Person(context.new_page(), url)

        def enters(user: str, password: str) -> None:
            context.clear_cookies()
            person.page.goto(url)
            person.page.locator("input[name=username]").fill(user)
            person.page.locator("input[name=password]").fill(password)
            person.page.locator("input[name=password]").press("Enter")
            person.page.wait_for_selector(READY, timeout=PATIENCE_MS)

        enters("ann", "secret1")
        person.asks_and_sees("cut", "too long")
        enters("bob", "secret2")
        assert answers(person) == []
        assert call_app(person, RECORDS)["conversations"] == 0
        enters("ann", "secret1")
        assert answers(person) == [("cut", "truncated")]
