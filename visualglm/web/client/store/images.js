/** The images of conversations: stored in the browser, and sent to the server, which forgets them at times. */

import { uploadImage } from "../core/api.js";
import { newId } from "../core/conversation.js";
import { texts } from "../core/i18n.js";

const REFUSALS = ["invalid_image", "image_too_large", "too_large"]; // codes of files that the server never takes
const words = texts({
    en: { gone: "The image of this conversation is no longer stored in this browser. Add it again." },
    zh: { gone: "此对话的图片已不在浏览器中，请重新添加。" },
});

/** The images of the store. A record is {id, blob, name, serverId, width, height, preview}. */
export class Images {
    /** @param {App} app */
    constructor(app) {
        this.app = app;
        this.uploads = new Map(); // image id -> promise of its record
        this.transfers = new Map(); // image id -> {record, fraction, cancel} of its upload
    }

    /**
     * Store an image and start to send it to the server.
     *
     * @param {Blob} blob
     * @param {string} name
     * @param {Object} [details] - further properties of the record
     * @returns {{record: Object, done: Promise<Object>}} the record without the server's details, and a promise of all
     */
    add(blob, name, details = {}) {
        const record = { id: newId(), blob, name, serverId: null, width: 0, height: 0, preview: "", created: Date.now(), ...details };
        const done = this.upload(record);
        done.catch(({ name: kind, code }) => {
            const isUseless = REFUSALS.includes(code) || kind === "AbortError"; // not if the connection failed
            if (isUseless) this.app.store.remove("images", record.id);
        });
        return { record, done };
    }

    /** Send an image's file to the server and store the record with the server's answer. */
    upload(record) {
        const { app } = this;
        const controller = new AbortController();
        const transfer = { record, fraction: 0, cancel: () => controller.abort() };
        const onProgress = (fraction) => {
            transfer.fraction = fraction;
            app.emit("upload", transfer);
        };
        const upload = (async () => {
            await app.store.put("images", record); // so that a reload during the upload does not lose it
            const { id, ...details } = await uploadImage(record.blob, { signal: controller.signal, onProgress });
            return app.store.put("images", { ...record, serverId: id, ...details });
        })();
        this.uploads.set(record.id, upload);
        this.transfers.set(record.id, transfer);
        const end = () => {
            this.uploads.delete(record.id);
            this.transfers.delete(record.id);
            app.emit("image");
        };
        upload.then(end, end);
        return upload;
    }

    /**
     * Call `send` with the server's id of an image, null without an image. If the server has lost the image, it is sent
     * again.
     *
     * @param {string|null} id - of the image in the store
     * @param {function(string|null): Promise} send
     */
    async send(id, send) {
        let record = id && (await this.uploaded(id));
        if (record && !record.serverId) record = await this.upload(record);
        try {
            return await send(record?.serverId ?? null);
        } catch (error) {
            if (error.code !== "unknown_image" || !record) throw error;
            record = await this.upload(record);
            return send(record.serverId);
        }
    }

    /** Return the record of an image without waiting for its upload; undefined if there is none. */
    async record(id) {
        return this.transfers.get(id)?.record ?? this.app.store.get("images", id);
    }

    /** Return the record of an image, after its upload has ended. */
    async uploaded(id) {
        const record = (await this.uploads.get(id)) ?? (await this.app.store.get("images", id));
        if (!record) throw new Error(words.gone);
        return record;
    }
}
