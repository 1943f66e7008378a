"""The folder of images in a browser: one question, a table that fills, and its answers as files."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.browser import BROWSER_TESTS, Person, wait_until
from tests.helpers.page_modules import call_app, call_module

pytestmark = BROWSER_TESTS
ROWS = "#folder tbody tr"
COLORS = ["red", "lime", "blue", "white", "black"]


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Paths of small images, one of each color, in the order of their names."""
    paths = [tmp_path / f"image {number}.png" for number in (1, 2, 10, 11, 12)]
    for path, color in zip(paths, COLORS, strict=True):
        Image.new("RGB", (64, 64), color).save(path)
    return [str(path) for path in paths]


def opens_folder(person: Person, paths: list[str]) -> None:
    if person.page.locator("#folder").is_hidden():
        person.page.click("#folder-button")
    person.page.set_input_files("#folder-images", paths)


def starts(person: Person, question: str) -> None:
    person.page.fill("#folder-question", question)
    person.page.click("#folder-start")


def counts(person: Person, state: str, count: int) -> None:
    """Wait until this many rows have a state."""
    person.locates(f"{ROWS}[data-state={state}]").to_have_count(count)


def rejects_first(person: Person, times: int, status: int, code: str) -> list[int]:
    """Let the first requests of answers fail; return a list to which each request adds its number."""
    requests: list[int] = []

    def handle(route: Any) -> None:
        requests.append(len(requests))
        if len(requests) > times:
            route.continue_()
        else:
            error = {"error": {"code": code, "message": f"no: {code}"}}
            route.fulfill(status=status, content_type="application/json", body=json.dumps(error))

    person.page.route("**/page/answers*", handle)
    return requests


def test_one_question_is_asked_about_each_image(person: Person, images: list[str]) -> None:
    person.sets("temperature", 0.25)
    opens_folder(person, images[::-1])
    starts(person, "seen")
    counts(person, "done", 5)
    table = person.page.locator("#folder table")
    assert table.locator("thead th[scope=col]").count() == 5
    names = table.locator("tbody th[scope=row]").all_text_contents()
    assert names == [Path(path).name for path in images]  # 2 comes before 10
    found = table.locator(".folder-cell-answer").all_text_contents()
    assert [text.split("image ")[1].split()[0] for text in found] == [
        "255-0-0",
        "0-255-0",
        "0-0-255",
        "255-255-255",
        "0-0-0",
    ]
    assert all("turns []" in text and "temperature 0.25" in text for text in found)
    person.locates(f"{ROWS} img[src^='data:image/jpeg']").to_have_count(5)
    person.sees("5 of 5", "#folder")
    person.sees("All images", "#toasts")
    assert call_app(person, "async (app) => (await app.store.all('images')).length") == 0
    assert person.conversation()["nodes"] == {}


def test_dropped_images_open_the_folder(person: Person) -> None:
    transfer = person.page.evaluate_handle(
        """async () => {
            const transfer = new DataTransfer();
            for (const name of ["a.png", "b.png", "notes.txt"]) {
                transfer.items.add(new File([name], name, { type: name.endsWith("png") ? "image/png" : "text/plain" }));
            }
            return transfer;
        }"""
    )
    person.page.dispatch_event("#log", "drop", {"dataTransfer": transfer})
    person.locates("#folder").to_be_visible()
    person.locates(ROWS).to_have_count(2)


def test_files_that_are_no_images_are_left_out_and_said(person: Person, images: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    opens_folder(person, [*images, str(tmp_path / "notes.txt")])
    person.locates(ROWS).to_have_count(5)
    person.sees("left out", "#toasts")
    opens_folder(person, images)
    person.locates(ROWS).to_have_count(5)
    person.sees("already", "#toasts")


def test_it_stops_and_goes_on(person: Person, images: list[str]) -> None:
    opens_folder(person, images)
    starts(person, "slow")
    counts(person, "running", 2)  # two at a time
    counts(person, "waiting", 3)
    person.page.click("#folder-start")
    counts(person, "waiting", 5)
    starts(person, "seen")
    counts(person, "done", 5)


def test_it_goes_on_while_the_conversation_is_shown(person: Person, images: list[str]) -> None:
    opens_folder(person, images[:1])
    starts(person, "slow")
    counts(person, "running", 1)
    person.page.get_by_role("button", name="Back to the conversation").click()
    person.locates("#talk").to_be_visible()
    person.sees("0/1", "#folder-button")
    assert "0/1" in (person.page.locator("#folder-button").get_attribute("aria-label") or "")
    person.asks_and_sees("cut", "too long")
    person.page.click("#folder-button")
    counts(person, "running", 1)
    person.page.click("#folder-start")
    counts(person, "waiting", 1)


def test_a_busy_server_is_asked_again(person: Person, images: list[str]) -> None:
    requests = rejects_first(person, 3, 503, "busy")
    opens_folder(person, images[:2])
    starts(person, "seen")
    person.sees("server busy", "#folder")
    counts(person, "done", 2)
    assert len(requests) == 5


def test_a_lost_connection_stops_it_and_nothing_fails(person: Person, images: list[str]) -> None:
    opens_folder(person, images)
    person.page.route("**/page/answers*", lambda route: route.abort())
    starts(person, "seen")
    person.sees("cannot be reached", "#toasts")
    counts(person, "waiting", 5)
    person.page.unroute("**/page/answers*")
    person.page.click("#folder-start")
    counts(person, "done", 5)


def test_failed_rows_say_why_and_are_retried(person: Person, images: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    rejects_first(person, 1, 500, "out_of_memory")
    opens_folder(person, [*images[:2], str(broken)])
    starts(person, "seen")
    counts(person, "failed", 2)
    counts(person, "done", 1)
    person.sees("no: out_of_memory", "#folder table")
    person.page.get_by_role("button", name="Retry failed images (2)").click()
    counts(person, "done", 2)
    counts(person, "failed", 1)


def test_another_question_replaces_answers_only_after_consent(person: Person, images: list[str]) -> None:
    opens_folder(person, images[:2])
    starts(person, "seen")
    counts(person, "done", 2)
    starts(person, "cut")
    person.page.wait_for_selector("dialog[open]")
    person.page.keyboard.press("Escape")
    person.sees("turns []", "#folder table")
    person.page.click("#folder-start")
    person.page.get_by_role("button", name="Replace the answers").click()
    counts(person, "truncated", 2)
    person.sees_no("turns []", "#folder table")


def test_the_table_survives_a_reload_and_goes_on_with_the_same_files(person: Person, images: list[str]) -> None:
    opens_folder(person, images[:2])
    starts(person, "seen")
    counts(person, "done", 2)
    opens_folder(person, images)
    counts(person, "waiting", 3)
    wait_until(person.page, "(await app.store.get('values', 'folder')).rows.length === 5")
    person.reloads()
    person.page.click("#folder-button")
    counts(person, "done", 2)
    counts(person, "missing", 3)
    assert person.page.input_value("#folder-question") == "seen"
    opens_folder(person, images)
    person.locates(ROWS).to_have_count(5)
    person.page.click("#folder-start")
    counts(person, "done", 5)


def saves(person: Person, button: str) -> tuple[str, bytes]:
    with person.page.expect_download() as waiting:
        person.page.click(button)
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_the_answers_are_saved_as_csv_and_json_lines(person: Person, images: list[str]) -> None:
    opens_folder(person, images)
    starts(person, "seen")
    counts(person, "done", 5)
    name, data = saves(person, "#folder-csv")
    assert name.startswith("folder ")
    assert name.endswith(".csv")
    assert data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert [row["image"] for row in rows] == [Path(path).name for path in images]
    assert all(row["question"] == "seen" and row["status"] == "done" and float(row["seconds"]) >= 0 for row in rows)
    name, data = saves(person, "#folder-jsonl")
    assert name.endswith(".jsonl")
    lines = [json.loads(line) for line in data.decode().splitlines()]
    assert [line["answer"] for line in lines] == [row["answer"] for row in rows]
    assert all(isinstance(line["seed"], int) for line in lines)


CELLS = {
    "plain": "plain",
    "红色": "红色",
    'a "b"': '"a ""b"""',
    "a,b": '"a,b"',
    "a\nb": '"a\nb"',
    "=1+1": "'=1+1",
    "@SUM(A1)": "'@SUM(A1)",
    "-2": "'-2",
    "+1": "'+1",
    "\t=1": "'\t=1",
    " =HYPERLINK(1)": "' =HYPERLINK(1)",
    '=A1,"x"': '"\'=A1,""x"""',
}


@pytest.fixture(scope="module")
def reader(chromium: Any, page_url: str) -> Any:
    """A person whose page only calls functions; it is shared, because nothing changes it."""
    with chromium.new_context(locale="en-GB") as context:
        person = Person(context.new_page(), page_url)
        person.opens()
        yield person


@pytest.mark.parametrize("text", CELLS, ids=repr)
def test_cells_of_csv_are_quoted_and_no_formulas(reader: Person, text: str) -> None:
    assert call_module(reader, "folder/tables.js", "(module, text) => module.csvCell(text)", text) == CELLS[text]


def test_numbers_of_csv_stay_numbers(reader: Person) -> None:
    assert call_module(reader, "folder/tables.js", "(module) => [-1.5, null, 0].map(module.csvCell)") == [
        "-1.5",
        "",
        "0",
    ]


def test_lines_of_csv_end_as_rfc_4180_says(reader: Person) -> None:
    row = {"name": "a.png", "answer": "one\ntwo", "status": "done", "error": "", "stats": None}
    text = call_module(reader, "folder/tables.js", "(module, row) => module.toCsv([row, row], 'q')", row)
    assert text.count("\r\n") == 3
    assert len(list(csv.reader(io.StringIO(text, newline="")))) == 3


def test_a_table_of_5000_rows_lays_out_and_reads_only_what_is_seen(person: Person) -> None:
    person.page.click("#folder-button")
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    add_files = """(app, bytes) => {
        const create = (_, index) => new File([Uint8Array.from(bytes)], `image ${index}.png`, { type: "image/png" });
        app.emit("folder", Array.from({ length: 5000 }, create));
    }"""
    call_app(person, add_files, list(file.getvalue()))
    person.locates(ROWS).to_have_count(5000)
    person.page.wait_for_selector(f"{ROWS} img[src^='data:']")
    assert person.page.locator(f"{ROWS} img[src^='data:']").count() < 200
    assert person.page.evaluate("getComputedStyle(document.querySelector('#folder tbody')).contentVisibility") == "auto"
    person.page.locator(ROWS).last.scroll_into_view_if_needed()
    person.page.wait_for_selector(f"{ROWS}:last-child img[src^='data:']")
    assert person.page.locator("#folder tbody th").last.text_content() == "image 4999.png"


def test_the_folder_is_used_by_keyboard_and_on_phones(enter: Any, images: list[str]) -> None:
    person = enter(query="?lang=zh", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    person.page.click("#files-button")
    person.page.get_by_role("menuitem", name="图片文件夹").click()
    person.page.set_input_files("#folder-images", images[:2])
    person.page.focus("#folder-question")
    person.page.keyboard.type("seen")
    person.page.keyboard.press("Enter")
    counts(person, "done", 2)
    person.sees("已回答 2 / 2", "#folder")
    assert person.page.evaluate("document.documentElement.scrollWidth") <= 390
    for box in person.page.locator("#folder button:visible").all():
        assert box.bounding_box()["height"] >= 44
    person.page.get_by_role("button", name="返回对话").click()
    person.locates("#question").to_be_visible()


def test_an_emptied_table_is_gone_after_a_reload(person: Person, images: list[str]) -> None:
    opens_folder(person, images[:1])
    starts(person, "seen")
    counts(person, "done", 1)
    person.page.click("#folder-clear")
    person.page.get_by_role("dialog").get_by_role("button", name="Empty the table").click()
    person.locates(ROWS).to_have_count(0)
    person.reloads()
    person.page.click("#folder-button")
    person.locates(ROWS).to_have_count(0)
