"""How the page loads: our own files first, few bytes, and nothing that is typed gets lost."""

from typing import Any

from tests.helpers.browser import BROWSER_TESTS, Person

pytestmark = BROWSER_TESTS
MAX_OWN_BYTES = 250_000  # the document and the client
MAX_BYTES = 600_000  # with Gradio and the small example images


def load(person: Person) -> tuple[list[str], dict[str, float]]:
    """Load the page without a cache; return the addresses in the order of the requests, and their bytes."""
    session = person.page.context.new_cdp_session(person.page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    names: dict[str, str] = {}
    sizes: dict[str, float] = {}
    session.on("Network.requestWillBeSent", lambda event: names.setdefault(event["requestId"], event["request"]["url"]))
    session.on(
        "Network.loadingFinished",
        lambda event: sizes.update({names.get(event["requestId"], ""): event["encodedDataLength"]}),
    )
    person.reloads()
    person.page.wait_for_load_state("networkidle")
    return list(names.values()), sizes


def test_own_files_come_first_and_all_are_small(person: Person) -> None:
    requests, sizes = load(person)
    own = [index for index, name in enumerate(requests) if "/page/client/" in name and not name.endswith(".svg")]
    foreign = [index for index, name in enumerate(requests) if "/assets/" in name]
    assert len(own) > 50 and foreign
    assert max(own) < min(foreign)
    own_bytes = sum(size for name, size in sizes.items() if "/page/client/" in name or "/?" in name)
    assert own_bytes < MAX_OWN_BYTES
    assert sum(sizes.values()) < MAX_BYTES


def test_what_is_typed_before_any_script_runs_stays(enter: Any) -> None:
    person = enter()
    page, held = person.page, []
    page.route("**/page/client/**/main.js", lambda route: held.append(route))
    page.reload(wait_until="commit")
    page.locator("#question").press_sequentially("typed early")
    while not held:
        page.wait_for_timeout(50)
    assert page.locator("#visualglm[data-ready]").count() == 0
    held.pop().continue_()
    page.wait_for_selector("#app #visualglm[data-ready]")
    assert page.input_value("#question") == "typed early"
    assert person.focused("id") == "question"
