"""The dialogs of the page that show, crop and draw an image."""

import base64
import io
import re
from typing import Any

import pytest
from PIL import Image

from tests.helpers.browser import BROWSER_TESTS, chromium as chromium, enter as enter, page_url as page_url, wait_until
from tests.helpers.page_images import (
    PHONE,
    ask,
    expect,
    give,
    open_page as open_page,
    page as page,
    panel_image,
    send_event,
    state,
)

pytestmark = BROWSER_TESTS


def wait_for_viewer(page: Any) -> None:
    """Wait until the viewer shows the image at its size."""
    expect(page.locator(".viewer-layer img")).to_be_visible()
    wait_until(page, "document.querySelector('.viewer-layer').offsetWidth > 100")


def open_viewer(page: Any) -> Any:
    give(page)
    page.locator(".image-enlarge").click()
    stage = page.locator(".viewer-stage")
    expect(stage).to_be_focused()
    wait_for_viewer(page)
    return stage


def zoom_of(page: Any) -> int:
    return int(re.sub(r"\D", "", page.locator(".viewer-zoom").inner_text()))


def test_the_viewer_zooms_by_keys_buttons_and_wheel(page: Any) -> None:
    stage = open_viewer(page)
    assert zoom_of(page) == 100
    page.keyboard.press("+")
    after_key = zoom_of(page)
    assert after_key > 100
    page.get_by_role("button", name="Zoom in").click()
    after_button = zoom_of(page)
    assert after_button > after_key
    stage.hover()
    page.mouse.wheel(0, -300)
    wait_until(page, f"parseInt(document.querySelector('.viewer-zoom').textContent) > {after_button}")
    page.get_by_role("button", name="Fit").click()
    assert zoom_of(page) == 100


def test_the_enlarged_image_moves_by_keys_and_by_dragging(page: Any) -> None:
    stage = open_viewer(page)
    for _ in range(4):
        page.keyboard.press("+")
    image = page.locator(".viewer-layer img")
    start = image.bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    by_key = image.bounding_box()["x"]
    assert by_key < start
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 240, box["y"] + 200, steps=4)
    page.mouse.up()
    assert image.bounding_box()["x"] == pytest.approx(by_key + 40, abs=2)


def test_two_fingers_zoom(open_page: Any) -> None:
    page = open_page(**PHONE)
    give(page)
    page.locator(".image-enlarge").tap()
    wait_for_viewer(page)
    touch = page.context.new_cdp_session(page)
    for kind, distance in [("touchStart", 40), ("touchMove", 80), ("touchMove", 120), ("touchEnd", 0)]:
        points = (
            [{"x": 195 - distance, "y": 350, "id": 0}, {"x": 195 + distance, "y": 350, "id": 1}] if distance else []
        )
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert zoom_of(page) > 150


def part_of(page: Any) -> Any:
    """Wait for the part that became the image; return its record."""
    expect(page.locator("#image-panel img")).to_have_attribute("alt", "hand_drawn.png, part")
    return state(
        page,
        "(({ name, width, height }) => ({ name, width, height }))(await app.images.uploaded(app.conversation.imageId))",
    )


def test_a_part_is_drawn_with_the_mouse(page: Any) -> None:
    open_viewer(page)
    page.get_by_role("button", name="Ask about a part").last.click()
    box = page.locator(".viewer-layer img").bounding_box()
    page.mouse.move(box["x"] + 0.05 * box["width"], box["y"] + 0.05 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.20 * box["width"], box["y"] + 0.15 * box["height"], steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Ask about this part").click()
    part = part_of(page)
    assert part["width"] == pytest.approx(0.15 * 400, abs=2) and part["height"] == pytest.approx(0.10 * 400, abs=2)


def test_a_part_is_selected_with_the_keyboard_and_starts_a_conversation(page: Any) -> None:
    give(page)
    ask(page)
    former = state(page, "app.conversation.id")
    page.get_by_role("button", name="Ask about a part").press("Enter")
    wait_for_viewer(page)
    for key in ["ArrowLeft", "Shift+ArrowRight", "Enter"]:
        page.keyboard.press(key)
    page.get_by_role("dialog").get_by_role("button", name="Start new conversation").press("Enter")
    part = part_of(page)
    assert part["width"] > part["height"]
    assert state(page, "app.conversation.id") != former


def test_a_part_is_drawn_with_a_finger(open_page: Any) -> None:
    page = open_page(**PHONE)
    give(page)
    page.get_by_role("button", name="Ask about a part").tap()
    wait_for_viewer(page)
    box = page.locator(".viewer-layer img").bounding_box()
    touch = page.context.new_cdp_session(page)
    for kind, share in [("touchStart", 0.02), ("touchMove", 0.1), ("touchMove", 0.2), ("touchEnd", None)]:
        point = {"x": box["x"] + (share or 0) * box["width"], "y": box["y"] + (share or 0) * box["height"]}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [] if share is None else [point]})
    page.get_by_role("button", name="Ask about this part").click()
    assert part_of(page)["width"] == pytest.approx(0.18 * 400, abs=4)


def pixels_of_the_image(page: Any) -> Image.Image:
    data = page.evaluate(
        """async () => {
            const app = await visualglm.app;
            const { blob } = await app.images.uploaded(app.conversation.imageId);
            return new Promise((resolve) => {
                const reader = new FileReader();
                reader.onload = () => resolve(reader.result.split(",")[1]);
                reader.readAsDataURL(blob);
            });
        }"""
    )
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def test_a_drawing_becomes_the_image(page: Any) -> None:
    page.get_by_role("button", name="Drawing board").click()
    use = page.get_by_role("button", name="Use this drawing")
    expect(use).to_be_disabled()
    box = page.locator(".drawing-canvas").bounding_box()
    page.get_by_role("radio", name="blue").check()
    page.get_by_role("radio", name="box").check()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.get_by_role("radio", name="red").check()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("radio", name="pen").check()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.75)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.75, steps=5)
    page.mouse.up()
    use.click()
    expect(panel_image(page, "drawing.png")).to_be_visible()
    image = pixels_of_the_image(page)
    red, blue, paper = (image.getpixel(at) for at in [(300, 336), (112, 112), (224, 224)])
    assert red[0] > 200 > red[2] and blue[2] > 200 > blue[0] and min(paper) > 220


def test_the_drawing_board_works_with_the_keyboard(page: Any) -> None:
    page.get_by_role("button", name="Drawing board").press("Enter")
    expect(page.locator(".drawing-canvas")).to_be_focused()
    for key in ["ArrowLeft", "ArrowLeft", "Space"]:  # stamps the star that is chosen at first
        page.keyboard.press(key)
    page.get_by_role("button", name="Use this drawing").press("Enter")
    expect(panel_image(page, "drawing.png")).to_be_visible()
    red = pixels_of_the_image(page).getpixel((224 - 28, 224))
    assert red[0] > 200 > red[1]


def test_a_drawing_outlives_a_dialog_closed_by_accident(page: Any) -> None:
    page.get_by_role("button", name="Drawing board").click()
    page.locator(".drawing-canvas").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Drawing board").click()
    expect(page.get_by_role("button", name="Use this drawing")).to_be_enabled()


def test_a_page_of_the_browser_takes_nothing_while_a_dialog_is_open(page: Any) -> None:
    page.get_by_role("button", name="Drawing board").click()
    send_event(page, "drop", ["dropped.png"])
    page.keyboard.press("Escape")
    assert state(page, "app.conversation.imageId") is None
