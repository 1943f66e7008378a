/** Small copies of images for lists. They are made when a row comes into view, a few at a time. */

import { element } from "../core/dom.js";

const SIDE = 96; // pixels
const AT_ONCE = 2;

/** Makes and keeps thumbnails. */
export class ThumbnailLoader {
    /**
     * @param {Function} read - returns a promise of the image of a key: a Blob, a data URL, or undefined
     */
    constructor(read) {
        this.read = read;
        this.made = new Map(); // key -> promise of a data URL, "" if the image cannot be read
        this.waiting = [];
        this.active = 0;
        this.keys = new WeakMap(); // <img> -> key
        this.observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.seen(entry)), {
            rootMargin: "200px",
        });
    }

    /** Return an element that shows the thumbnail of a key. It has no alternative text: the row says more. */
    image(key) {
        const image = element("img.thumbnail", { alt: "", width: 48, height: 48 });
        this.keys.set(image, key);
        this.observer.observe(image);
        return image;
    }

    seen({ isIntersecting, target }) {
        if (!isIntersecting) return;
        this.observer.unobserve(target);
        const key = this.keys.get(target);
        if (!this.made.has(key)) this.made.set(key, this.inTurn(() => this.make(key)));
        this.made.get(key).then((url) => {
            if (url) target.src = url;
            else this.made.delete(key); // it may be stored later
        });
    }

    /** Run `work` when fewer than AT_ONCE others run. */
    async inTurn(work) {
        if (this.active >= AT_ONCE) await new Promise((resolve) => this.waiting.push(resolve));
        this.active += 1;
        try {
            return await work();
        } finally {
            this.active -= 1;
            this.waiting.shift()?.();
        }
    }

    async make(key) {
        try {
            const source = await this.read(key);
            if (!source) return "";
            return await shrink(typeof source === "string" ? await dataUrlToBlob(source) : source);
        } catch {
            return ""; // a file that the browser cannot show
        }
    }
}

/** Convert a data URL to a Blob. */
export function dataUrlToBlob(url) {
    const [, type, data] = url.match(/^data:([^;,]*);base64,(.*)$/s);
    const text = atob(data);
    const bytes = new Uint8Array(text.length);
    for (let index = 0; index < text.length; index += 1) bytes[index] = text.charCodeAt(index);
    return new Blob([bytes], { type });
}

async function shrink(blob) {
    const bitmap = await createImageBitmap(blob);
    const { width, height } = bitmap;
    const side = Math.min(width, height);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    canvas.getContext("2d").drawImage(bitmap, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIDE, SIDE);
    bitmap.close();
    return canvas.toDataURL("image/jpeg", 0.8);
}
