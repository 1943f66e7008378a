/** A dialog that shows the image large: zoom, pan, and selecting a part to ask about. */

import { openDialog } from "../core/dialogs.js";
import { element, icon, iconButton } from "../core/dom.js";
import { formatNumber, texts } from "../core/i18n.js";
import { isTouch } from "./image_sources.js";
import { showImage } from "./image_view.js";
import { PartSelection } from "./part.js";

const MAX_ZOOM = 16;
const STEP = 1.25; // factor of one press of + or -
const MOVE = 60; // pixels of one press of an arrow key
const words = texts({
    en: {
        stage: "Image, enlarged. Plus and minus zoom, the arrow keys move it.",
        zoomIn: "Zoom in (+)",
        zoomOut: "Zoom out (−)",
        fit: "Fit (0)",
        fitTouch: "Fit",
        part: "Ask about a part",
        whole: "Whole image",
        use: "Ask about this part",
        partHint:
            "Draw a rectangle, or move the frame: arrow keys move it, Shift with arrow keys changes its size, Enter uses it.",
        partHintTouch: "Draw a rectangle with a finger, or drag the frame and its corners.",
        partName: (name) => `${name}, part`,
    },
    zh: {
        stage: "放大的图片。加号和减号缩放，方向键移动。",
        zoomIn: "放大 (+)",
        zoomOut: "缩小 (−)",
        fit: "适合窗口 (0)",
        fitTouch: "适合窗口",
        part: "针对局部提问",
        whole: "整张图片",
        use: "针对这个局部提问",
        partHint: "画一个矩形，或移动选框：方向键移动，Shift 加方向键改变大小，回车键确认。",
        partHintTouch: "用手指画一个矩形，或拖动选框和它的四角。",
        partName: (name) => `${name}（局部）`,
    },
});

/** The zoom and position of an image on a stage. */
class View {
    constructor(stage, layer, onChange) {
        Object.assign(this, { stage, layer, onChange, zoom: 1, x: 0, y: 0 });
    }

    /** Give the layer the largest size at which the whole image is visible. */
    fit(image) {
        const { clientWidth, clientHeight } = this.stage;
        const scale = Math.min(clientWidth / image.naturalWidth, clientHeight / image.naturalHeight, 4);
        this.layer.style.width = `${image.naturalWidth * scale}px`;
        this.layer.style.height = `${image.naturalHeight * scale}px`;
        Object.assign(this, { zoom: 1, x: 0, y: 0 });
        this.apply();
    }

    /** Move the image, but not out of sight. */
    move(dx, dy) {
        this.x += dx;
        this.y += dy;
        this.apply();
    }

    /** Zoom by a factor, so that the point at (clientX, clientY) stays; without one, the middle of the stage. */
    zoomBy(factor, clientX, clientY) {
        const box = this.stage.getBoundingClientRect();
        const zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
        const fromX = (clientX ?? box.left + box.width / 2) - box.left - box.width / 2;
        const fromY = (clientY ?? box.top + box.height / 2) - box.top - box.height / 2;
        const change = zoom / this.zoom;
        this.x = fromX - (fromX - this.x) * change;
        this.y = fromY - (fromY - this.y) * change;
        this.zoom = zoom;
        this.apply();
    }

    apply() {
        const spareX = Math.max(0, (this.layer.offsetWidth * this.zoom - this.stage.clientWidth) / 2);
        const spareY = Math.max(0, (this.layer.offsetHeight * this.zoom - this.stage.clientHeight) / 2);
        this.x = Math.min(spareX, Math.max(-spareX, this.x));
        this.y = Math.min(spareY, Math.max(-spareY, this.y));
        this.layer.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.zoom})`;
        this.layer.style.setProperty("--zoom", this.zoom);
        this.onChange(this.zoom);
    }
}

/** Let one pointer pan or draw a part, and two pointers zoom. */
function listenToPointers(view, selection) {
    const pointers = new Map();
    const { stage } = view;
    stage.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        event.preventDefault();
        stage.focus({ preventScroll: true });
        stage.setPointerCapture(event.pointerId);
        pointers.set(event.pointerId, event);
        if (pointers.size === 1) selection.begin(event);
        else selection.cancel();
    });
    stage.addEventListener("pointermove", (event) => {
        const last = pointers.get(event.pointerId);
        if (!last) return;
        pointers.set(event.pointerId, event);
        if (pointers.size === 2) pinch(view, [...pointers.values()], last, event);
        else if (selection.isActive) selection.drag(event);
        else view.move(event.clientX - last.clientX, event.clientY - last.clientY);
    });
    const end = (event) => {
        if (pointers.delete(event.pointerId)) selection.end();
    };
    stage.addEventListener("pointerup", end);
    stage.addEventListener("pointercancel", end);
}

function pinch(view, [one, two], last, moved) {
    const other = moved.pointerId === one.pointerId ? two : one;
    const before = Math.hypot(last.clientX - other.clientX, last.clientY - other.clientY);
    const after = Math.hypot(moved.clientX - other.clientX, moved.clientY - other.clientY);
    if (before > 0) view.zoomBy(after / before, (one.clientX + two.clientX) / 2, (one.clientY + two.clientY) / 2);
    view.move((moved.clientX - last.clientX) / 2, (moved.clientY - last.clientY) / 2);
}

function listenToKeys(view, selection, fit, use) {
    view.stage.addEventListener("keydown", (event) => {
        const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [
            0, 0,
        ];
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        if (dx || dy) {
            if (!selection.isActive) view.move(-dx * MOVE, -dy * MOVE);
            else if (event.shiftKey) selection.resize(dx, dy);
            else selection.move(dx, dy);
        } else if (event.key === "+" || event.key === "=") view.zoomBy(STEP);
        else if (event.key === "-" || event.key === "_") view.zoomBy(1 / STEP);
        else if (event.key === "0") fit();
        else if (event.key === "Enter" && selection.isActive) use();
        else return;
        event.preventDefault();
    });
}

/**
 * Open the dialog.
 *
 * @param {Object} record - of the image
 * @param {Object} options
 * @param {boolean} options.selectsPart - whether it opens with a frame to select a part
 * @param {Function} options.usePart - called with the file of the selected part and its name
 */
export async function openViewer(record, { selectsPart, usePart }) {
    const image = element("img");
    const layer = element("div.viewer-layer", {}, image);
    const stage = element("div.viewer-stage", { tabindex: "0", role: "application", "aria-label": words.stage }, layer);
    const percent = element("output.viewer-zoom", {});
    const view = new View(stage, layer, (zoom) => (percent.textContent = `${formatNumber(zoom * 100)} %`));
    const selection = new PartSelection(layer, image);
    const fit = () => view.fit(image);
    const use = async () => {
        const blob = await selection.toBlob();
        dialog.close("");
        usePart(blob, words.partName(record.name));
    };
    const hint = element("p.viewer-hint", {});
    const toggle = element("button.button", { type: "button", onclick: () => select(!selection.isActive) });
    const confirm = element("button.button.primary", { type: "button", onclick: use }, icon("crop"), words.use);
    const select = (isActive) => {
        selection.setActive(isActive);
        stage.classList.toggle("is-selecting", isActive);
        toggle.replaceChildren(...(isActive ? [] : [icon("crop")]), isActive ? words.whole : words.part);
        confirm.hidden = hint.hidden = !isActive;
        hint.textContent = isTouch() ? words.partHintTouch : words.partHint;
        if (isActive) stage.focus({ preventScroll: true });
    };
    const zoom = [
        iconButton("minus", words.zoomOut, { onclick: () => view.zoomBy(1 / STEP) }),
        percent,
        iconButton("new", words.zoomIn, { onclick: () => view.zoomBy(STEP) }),
        element("button.button", { type: "button", onclick: fit }, isTouch() ? words.fitTouch : words.fit),
    ];
    const bar = element(
        "div.viewer-bar",
        {},
        element("div.viewer-zooms", {}, zoom),
        element("div.viewer-part", {}, toggle, confirm),
    );
    const refit = new ResizeObserver(fit);
    const dialog = openDialog({
        title: record.name,
        className: "viewer-dialog",
        content: [stage, hint, bar],
        onClose: () => refit.disconnect(),
    });
    select(selectsPart);
    stage.focus();
    stage.addEventListener(
        "wheel",
        (event) => {
            event.preventDefault();
            view.zoomBy(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
        },
        { passive: false },
    );
    listenToPointers(view, selection);
    listenToKeys(view, selection, fit, use);
    await showImage(image, record);
    fit();
    refit.observe(stage);
}
