/** A rectangle on an image that the visitor draws, moves and resizes; its content becomes an image of its own. */

import { element } from "../core/dom.js";

const STEP = 0.02; // fraction of the image of one press of an arrow key
const MIN_SIDE = 0.02;
const MIN_PIXELS = 8;
const CORNER = 28; // pixels around a corner within which a pointer takes it
const QUALITY = 0.95;

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** The selected part of an image; lengths and coordinates are fractions of the image's sides. */
export class PartSelection {
    /**
     * @param {HTMLElement} layer - that the image fills
     * @param {HTMLImageElement} image
     */
    constructor(layer, image) {
        const corners = ["nw", "ne", "sw", "se"].map((name) => element(`span.part-corner.${name}`));
        this.frame = element("div.part-frame", { hidden: true, "aria-hidden": "true" }, corners);
        Object.assign(this, { layer, image, isActive: false, dragged: null });
        this.box = { left: 0.25, top: 0.25, right: 0.75, bottom: 0.75 };
        layer.append(this.frame);
    }

    /** Show or hide the frame. */
    setActive(isActive) {
        this.isActive = isActive;
        this.draw();
    }

    /** Return the point of an event, and how long CORNER pixels are. */
    pointOf({ clientX, clientY }) {
        const { left, top, width, height } = this.layer.getBoundingClientRect();
        const point = { x: (clientX - left) / width, y: (clientY - top) / height };
        return { ...point, nearX: CORNER / width, nearY: CORNER / height };
    }

    /** Begin to move the frame, to pull a corner of it, or to draw a new one, by where the pointer is. */
    begin(event) {
        if (!this.isActive) return;
        const point = this.pointOf(event);
        const { left, top, right, bottom } = this.box;
        this.before = { ...this.box };
        const isNear = (x, y) => Math.abs(point.x - x) < point.nearX && Math.abs(point.y - y) < point.nearY;
        const corner = [
            [left, top],
            [right, top],
            [left, bottom],
            [right, bottom],
        ].find(([x, y]) => isNear(x, y));
        const isInside = point.x > left && point.x < right && point.y > top && point.y < bottom;
        if (corner) this.dragged = { fixed: { x: left + right - corner[0], y: top + bottom - corner[1] } };
        else if (isInside) this.dragged = { from: point };
        else this.dragged = { fixed: { x: clamp(point.x, 0, 1), y: clamp(point.y, 0, 1) } };
    }

    /** Follow the pointer. */
    drag(event) {
        if (!this.dragged) return;
        const point = this.pointOf(event);
        const { fixed, from } = this.dragged;
        if (from) {
            this.box = this.moved(this.before, point.x - from.x, point.y - from.y);
        } else {
            const [x, y] = [clamp(point.x, 0, 1), clamp(point.y, 0, 1)];
            const [left, right] = [Math.min(x, fixed.x), Math.max(x, fixed.x)];
            const [top, bottom] = [Math.min(y, fixed.y), Math.max(y, fixed.y)];
            this.box = { left, top, right, bottom };
        }
        this.draw();
    }

    /** End following the pointer; a rectangle that is too small, as of a click, is dropped. */
    end() {
        if (!this.dragged) return;
        this.dragged = null;
        const { left, top, right, bottom } = this.box;
        if (right - left < MIN_SIDE || bottom - top < MIN_SIDE) this.box = this.before;
        this.draw();
    }

    /** Return to the frame before the pointer moved it, as when a second finger begins to zoom. */
    cancel() {
        if (!this.dragged) return;
        this.dragged = null;
        this.box = this.before;
        this.draw();
    }

    /** Move the frame by steps. */
    move(dx, dy) {
        this.box = this.moved(this.box, dx * STEP, dy * STEP);
        this.draw();
    }

    /** Change width and height by steps. */
    resize(dx, dy) {
        const { left, top, right, bottom } = this.box;
        this.box.right = clamp(right + dx * STEP, left + MIN_SIDE, 1);
        this.box.bottom = clamp(bottom + dy * STEP, top + MIN_SIDE, 1);
        this.draw();
    }

    moved({ left, top, right, bottom }, dx, dy) {
        const x = clamp(dx, -left, 1 - right);
        const y = clamp(dy, -top, 1 - bottom);
        return { left: left + x, top: top + y, right: right + x, bottom: bottom + y };
    }

    draw() {
        const { left, top, right, bottom } = this.box;
        const percent = (fraction) => `${fraction * 100}%`;
        this.frame.hidden = !this.isActive;
        Object.assign(this.frame.style, {
            left: percent(left),
            top: percent(top),
            width: percent(right - left),
            height: percent(bottom - top),
        });
    }

    /** Return the part as a file: PNG if it is small, otherwise JPEG. */
    toBlob() {
        const { naturalWidth, naturalHeight } = this.image;
        const { left, top, right, bottom } = this.box;
        const width = Math.max(MIN_PIXELS, Math.round((right - left) * naturalWidth));
        const height = Math.max(MIN_PIXELS, Math.round((bottom - top) * naturalHeight));
        const canvas = element("canvas", { width, height });
        const area = [
            left * naturalWidth,
            top * naturalHeight,
            (right - left) * naturalWidth,
            (bottom - top) * naturalHeight,
        ];
        canvas.getContext("2d").drawImage(this.image, ...area, 0, 0, width, height);
        const type = width * height < 1024 * 1024 ? "image/png" : "image/jpeg";
        return new Promise((resolve) => canvas.toBlob(resolve, type, QUALITY));
    }
}
