"""The ways by which images come to the page, and their upload."""

import base64
import re
from typing import Any

import pytest

from tests.helpers.browser import BROWSER_TESTS, chromium as chromium, enter as enter, page_url as page_url, wait_until
from tests.helpers.cli_program import SCENE
from tests.helpers.page_images import (
    PHONE,
    Uploads,
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
from tests.helpers.web_program import DRAWN

pytestmark = BROWSER_TESTS
CAMERA = {"permissions": ["camera"]}


def test_a_chosen_image_is_shown_while_it_uploads(page: Any) -> None:
    uploads = Uploads(page)
    page.set_input_files("#image-file", DRAWN)
    uploads.wait()
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()
    expect(page.locator(".image-sending")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_visible()
    uploads.release()
    expect(page.locator(".image-sending")).to_be_hidden()
    expect(page.locator(".image-details")).to_contain_text("400 × 400")


def test_the_button_opens_the_file_chooser(page: Any) -> None:
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Add an image").click()
    chosen.value.set_files(DRAWN)
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()


def test_an_image_dropped_anywhere_is_taken(page: Any) -> None:
    overlay = page.locator("#drop-overlay")
    expect(overlay).to_be_hidden()
    assert send_event(page, "dragover", ["dropped.png"], selector="#top")
    expect(overlay).to_be_visible()
    assert send_event(page, "drop", ["dropped.png"], selector="#question")
    expect(overlay).to_be_hidden()
    expect(panel_image(page, "dropped.png")).to_be_visible()


def test_a_drag_that_leaves_the_page_hides_the_overlay(page: Any) -> None:
    send_event(page, "dragenter", ["dropped.png"])
    expect(page.locator("#drop-overlay")).to_be_visible()
    send_event(page, "dragleave", ["dropped.png"])
    expect(page.locator("#drop-overlay")).to_be_hidden()


def test_dragged_text_belongs_to_the_text_field(page: Any) -> None:
    assert not send_event(page, "dragover", [], "words", "#question")
    assert not send_event(page, "drop", [], "words", "#question")


def test_several_dropped_images_open_as_a_folder(page: Any) -> None:
    state(page, "app.on('folder', (files) => { window.dropped = files.map(({ name }) => name); })")
    send_event(page, "drop", ["one.png", "two.png"])
    page.wait_for_function("window.dropped?.length === 2")
    assert state(page, "app.conversation.imageId") is None


@pytest.mark.parametrize("selector", ["body", "#question"])
def test_an_image_is_pasted_anywhere(page: Any, selector: str) -> None:
    page.focus("#question")
    assert send_event(page, "paste", ["image.png"], selector=selector)
    expect(panel_image(page, "image.png")).to_be_visible()


def test_copied_text_that_comes_with_an_image_is_pasted_as_text(page: Any) -> None:
    assert not send_event(page, "paste", ["image.png"], "a table", "#question")
    assert send_event(page, "paste", ["image.png"], "/home/me/image.png", "#question")  # the name of a copied file
    expect(panel_image(page, "image.png")).to_be_visible()


def test_the_clipboard_button_takes_the_image(open_page: Any) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    data = base64.b64encode(image_bytes()).decode("ascii")
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
            const image = new Blob([bytes], { type: "image/png" });
            return navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
        }""",
        data,
    )
    page.get_by_role("button", name="Paste", exact=True).click()
    expect(panel_image(page, "pasted image")).to_be_visible()


def test_a_refused_image_keeps_the_old_one_and_the_draft(page: Any) -> None:
    give(page)
    page.fill("#question", "a draft")
    uploads = Uploads(page)
    page.set_input_files("#image-file", SCENE)
    expect(panel_image(page, "scene.png")).to_be_visible()
    uploads.refuse("invalid_image", "It has no pixels.", 422)
    expect(page.get_by_role("alert")).to_contain_text("It has no pixels.")
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()
    expect(page.locator("#question")).to_have_value("a draft")
    assert page.get_by_role("alert").get_by_role("button", name="Try again").count() == 0


def test_an_image_that_a_busy_server_refused_can_be_sent_again(page: Any) -> None:
    uploads = Uploads(page)
    page.set_input_files("#image-file", SCENE)
    uploads.refuse("busy", "Too many people.", 503)
    page.get_by_role("button", name="Try again").click()
    uploads.release()
    expect(panel_image(page, "scene.png")).to_be_visible()
    expect(page.locator(".image-sending")).to_be_hidden()
    assert state(page, "(await app.images.uploaded(app.conversation.imageId)).serverId")


def test_a_refused_image_returns_to_the_conversation_with_turns(page: Any) -> None:
    give(page)
    ask(page)
    former = state(page, "app.conversation.id")
    page.fill("#question", "a draft")
    uploads = Uploads(page)
    page.set_input_files("#image-file", SCENE)
    page.get_by_role("button", name="Start new conversation").click()
    expect(page.locator("#question")).to_have_value("a draft")
    uploads.refuse("invalid_image", "It has no pixels.", 422)
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()
    expect(page.locator("#question")).to_have_value("a draft")
    assert state(page, "app.conversation.id") == former


def test_an_upload_can_be_canceled(page: Any) -> None:
    give(page)
    uploads = Uploads(page)
    page.set_input_files("#image-file", SCENE)
    uploads.wait()
    page.locator(".image-sending").get_by_role("button").click()
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(page: Any) -> None:
    sent = []
    page.on("request", lambda request: "page/images" in request.url and sent.append(request.url))
    limit = 2**20
    state(page, f"app.info.limits.image_bytes = {limit}")
    file = {"name": "huge.png", "mimeType": "image/png", "buffer": bytes(limit + 1)}
    page.set_input_files("#image-file", files=[file])
    expect(page.get_by_role("alert")).to_contain_text(f"{limit // 2**20} MiB")
    assert not sent


def test_a_file_that_is_no_image_is_refused(page: Any) -> None:
    page.set_input_files("#image-file", files=[{"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"}])
    expect(page.get_by_role("alert")).to_contain_text("a.txt")


def test_a_question_waits_for_the_image(page: Any) -> None:
    questions: list[Any] = []
    page.on("request", lambda request: "page/answers" in request.url and questions.append(request.post_data_json))
    uploads = Uploads(page)
    page.set_input_files("#image-file", DRAWN)
    uploads.wait()
    page.fill("#question", "What is it?")
    page.press("#question", "Enter")
    wait_until(page, "app.running.size === 1")
    assert not questions
    uploads.release()
    wait_until(page, "app.running.size === 0")
    assert questions[0]["image"] == state(page, "(await app.images.uploaded(app.conversation.imageId)).serverId")


def test_a_question_about_a_refused_image_says_why_it_failed(page: Any) -> None:
    uploads = Uploads(page)
    page.set_input_files("#image-file", DRAWN)
    uploads.wait()
    page.fill("#question", "What is it?")
    page.press("#question", "Enter")
    uploads.refuse("invalid_image", "It has no pixels.", 422)
    wait_until(page, "app.running.size === 0")
    node = state(page, "Object.values(app.conversation.nodes)[0]")
    assert node["status"] == "failed" and node["error"] == "It has no pixels."


def test_the_servers_preview_shows_what_the_browser_cannot(page: Any) -> None:
    file = {"name": "photo.tif", "mimeType": "image/tiff", "buffer": image_bytes(file_format="TIFF")}
    uploads = Uploads(page)
    page.set_input_files("#image-file", files=[file])
    uploads.wait()
    expect(page.locator(".image-missing")).to_be_visible()
    uploads.release()
    expect(panel_image(page, "photo.tif")).to_be_visible()
    assert panel_image(page, "photo.tif").get_attribute("src").startswith("data:image/jpeg")


def test_a_reload_keeps_the_image(page: Any) -> None:
    give(page)
    page.wait_for_timeout(500)  # longer than the delay before a conversation is stored
    page.reload()
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()


def test_a_reload_during_the_upload_keeps_the_image(page: Any) -> None:
    uploads = Uploads(page)
    page.set_input_files("#image-file", DRAWN)
    uploads.wait()
    page.wait_for_timeout(500)
    page.unroute("**/page/images*")
    page.reload()
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()
    ask(page)
    assert state(page, "Object.values(app.conversation.nodes)[0].status") == "done"


def test_a_conversation_goes_on_with_a_lost_image_that_is_added_again(page: Any) -> None:
    give(page)
    ask(page)
    former = state(page, "app.conversation.id")
    state(page, "(await app.store.remove('images', app.conversation.imageId), app.emit('image'))")
    expect(page.locator(".image-gone")).to_be_visible()
    give(page)
    assert state(page, "app.conversation.id") == former
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_photo_is_taken_with_the_webcam(open_page: Any) -> None:
    page = open_page(**CAMERA)
    page.get_by_role("button", name="Camera").click()
    take = page.get_by_role("button", name="Take the photo")
    expect(take).to_be_enabled()
    take.click()
    expect(page.locator("#image-panel img")).to_have_attribute("alt", re.compile(r"^photo .*\.jpg$"))
    assert page.get_by_role("dialog").count() == 0


def test_a_denied_camera_says_so(open_page: Any) -> None:
    page = open_page(**CAMERA)
    page.evaluate(
        """() => {
            const denied = new DOMException("no", "NotAllowedError");
            navigator.mediaDevices.getUserMedia = () => Promise.reject(denied);
        }"""
    )
    page.get_by_role("button", name="Camera").click()
    expect(page.get_by_role("dialog")).to_contain_text("does not allow")


def test_closing_the_dialog_stops_the_camera(open_page: Any) -> None:
    page = open_page(**CAMERA)
    page.get_by_role("button", name="Camera").click()
    expect(page.get_by_role("button", name="Take the photo")).to_be_enabled()
    page.evaluate("window.track = document.querySelector('video').srcObject.getTracks()[0]")
    page.keyboard.press("Escape")
    page.wait_for_function("window.track.readyState === 'ended'")


def test_a_phone_uses_the_systems_camera_and_knows_no_control_key(open_page: Any) -> None:
    page = open_page(**PHONE)
    assert page.locator("#image-camera").get_attribute("capture") == "environment"
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Take a photo").tap()
    chosen.value.set_files(DRAWN)
    expect(panel_image(page, "hand_drawn.png")).to_be_visible()
    assert not page.get_by_text(re.compile("Ctrl|⌘")).locator("visible=true").count()


def test_the_image_is_a_strip_on_a_phone_that_enlarges_by_tap(open_page: Any) -> None:
    page = open_page(**PHONE)
    give(page)
    assert page.locator("#image-panel").bounding_box()["height"] < 90
    page.locator(".image-enlarge").tap()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.locator(".viewer-layer img").bounding_box()["width"] > 250


def test_targets_have_44_pixels_on_touch_screens(open_page: Any) -> None:
    page = open_page(**PHONE)
    give(page)
    buttons = page.locator("#image-panel button:visible, #welcome button:visible")
    for index in range(buttons.count()):
        box = buttons.nth(index).bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44, buttons.nth(index).inner_text()


@pytest.mark.parametrize(("platform", "key"), [("MacIntel", "⌘V"), ("Linux x86_64", "Ctrl+V")])
def test_the_hint_names_the_keys_of_the_system(chromium: Any, page_url: str, platform: str, key: str) -> None:
    with chromium.new_context() as context:
        page = context.new_page()
        page.add_init_script(
            f"Object.defineProperty(navigator, 'platform', {{ get: () => '{platform}' }});"
            "Object.defineProperty(navigator, 'userAgentData', { get: () => undefined });"
        )
        page.goto(f"{page_url}?lang=en")
        expect(page.locator(".image-choose")).to_contain_text(key)


def test_plain_http_hides_the_camera_and_says_why(chromium: Any, page_url: str) -> None:
    def forward(route: Any) -> None:
        headers = {name: value for name, value in route.request.headers.items() if name != "origin"}
        url = route.request.url.replace("http://page.test/", page_url)
        route.fulfill(response=route.fetch(url=url, headers=headers))

    with chromium.new_context() as context:
        page = context.new_page()
        page.route("http://page.test/**", forward)
        page.goto("http://page.test/?lang=en")
        expect(page.locator(".image-note")).to_contain_text("https")
        assert not page.evaluate("isSecureContext")
        expect(page.get_by_role("button", name="Camera")).to_have_count(0)
        expect(page.get_by_role("button", name="Paste", exact=True)).to_have_count(0)
        assert send_event(page, "paste", ["image.png"])
        expect(panel_image(page, "image.png")).to_be_visible()
        page.unroute_all(behavior="wait")
