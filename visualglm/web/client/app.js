/** The state of the page: the open conversation, the settings, running answers. Parts listen to its events. */

import { uploadImage } from "./api.js";
import { isEmpty, newConversation, newId } from "./conversation.js";
import { texts } from "./i18n.js";
import { toast } from "./dialogs.js";

const SAVE_DELAY_MS = 300;
const words = texts({
    en: {
        full: "The browser's storage is full: this conversation is kept in this tab only. Save it as a file, or delete old conversations.",
        imageGone: "The image of this conversation is no longer stored in this browser. Add it again.",
    },
    zh: {
        full: "浏览器存储空间已满：此对话只保留在当前标签页。请将其保存为文件，或删除旧对话。",
        imageGone: "此对话的图片已不在浏览器中，请重新添加。",
    },
});

/**
 * The page's state.
 *
 * Events (see `on`): "open": another conversation is shown; "change": its nodes or its draft changed; "node": one node
 * changed (detail: the node); "image": its image changed, or the upload of an image began or ended; "upload": a part of
 * an image was sent (detail: the transfer); "running": an answer began or ended; "settings": a setting changed;
 * "comparison": comparing was switched on, off or changed; "list": the stored conversations changed.
 */
export class App {
    /**
     * @param {Object} info - PageInfo of the server
     * @param {Store} store
     */
    constructor(info, store) {
        this.info = info;
        this.store = store;
        this.conversation = newConversation();
        this.settings = Object.fromEntries(Object.entries(info.settings).map(([name, { value }]) => [name, value]));
        this.comparison = null; // {sides: [{model, settings}, {model, settings}]} while each question is asked twice
        this.running = new Map(); // node id -> AbortController
        this.uploads = new Map(); // image id -> promise of its record
        this.transfers = new Map(); // image id -> {record, fraction, cancel} of its upload
        this.opened = new Map([[this.conversation.id, this.conversation]]); // conversations with unsaved or running nodes
        this.listeners = new Map();
        this.timers = new Map(); // conversation id -> timer of the next save
        store.onProblem = () => this.reportFull();
        store.onChange(({ table, id }) => table === "conversations" && this.reload(id));
        addEventListener("pagehide", () => this.saveAll());
        document.addEventListener("visibilitychange", () => document.hidden && this.saveAll());
    }

    /** Call `listener` with the detail of each event of a name. */
    on(name, listener) {
        if (!this.listeners.has(name)) this.listeners.set(name, new Set());
        this.listeners.get(name).add(listener);
    }

    /** Tell the listeners of an event. */
    emit(name, detail) {
        this.listeners.get(name)?.forEach((listener) => listener(detail));
    }

    /**
     * Restore the settings, and the conversation that was open last.
     *
     * @param {Function} typed - returns what was typed before the page was ready; it becomes the draft
     */
    async restore(typed) {
        const [settings, last] = await Promise.all([
            this.store.get("values", "settings"),
            this.store.get("values", "last"),
        ]);
        Object.assign(this.settings, settings?.values);
        const conversation = last && (await this.store.get("conversations", last.value));
        const draft = typed();
        if (conversation) this.show(conversation);
        if (draft) this.setDraft(draft);
        this.emit("settings");
    }

    /** Show a conversation. */
    show(conversation) {
        const { conversation: left } = this;
        if (left && !this.runsIn(left)) this.opened.delete(left.id);
        this.conversation = this.opened.get(conversation.id) ?? conversation;
        this.opened.set(this.conversation.id, this.conversation);
        endInterrupted(this.conversation, this.running);
        this.store.put("values", { id: "last", value: this.conversation.id });
        this.emit("open");
        this.emit("image");
        this.emit("running");
    }

    /** Start a new conversation, about an image of the store or without one; return the former one. */
    startNew(imageId = null, imageName = "", draft = "") {
        const former = this.conversation;
        this.show({ ...newConversation(imageId, imageName), draft });
        return former;
    }

    /** Store the text of the question field. */
    setDraft(text) {
        if (this.conversation.draft === text) return;
        this.conversation.draft = text;
        this.emit("change");
        this.save();
    }

    /** Change a setting and store it. */
    setSetting(name, value) {
        this.settings[name] = value;
        this.store.put("values", { id: "settings", values: this.settings });
        this.emit("settings");
    }

    /**
     * Store an image, start to send it to the server, and return its record.
     *
     * @returns {Promise<{id, blob, name, serverId, width, height, preview}>} fulfilled when the server has accepted it
     * @throws {ApiError} the file is no image, or the server cannot be reached
     */
    async addImage(blob, name) {
        return this.startUpload(blob, name).done;
    }

    /**
     * Store an image and start to send it to the server.
     *
     * @param {Blob} blob
     * @param {string} name
     * @param {Object} [details] - further properties of the record
     * @returns {{record: Object, done: Promise<Object>}} the record without the server's details, and a promise of all
     */
    startUpload(blob, name, details = {}) {
        const record = { id: newId(), blob, name, serverId: null, width: 0, height: 0, preview: "", ...details };
        const done = this.upload(record);
        done.catch(() => this.store.remove("images", record.id));
        return { record, done };
    }

    /** Send an image's file to the server and store the record with the server's answer. */
    upload(record) {
        const controller = new AbortController();
        const transfer = { record, fraction: 0, cancel: () => controller.abort() };
        const onProgress = (fraction) => {
            transfer.fraction = fraction;
            this.emit("upload", transfer);
        };
        const upload = (async () => {
            await this.store.put("images", record); // so that a reload during the upload does not lose it
            const { id, ...details } = await uploadImage(record.blob, { signal: controller.signal, onProgress });
            return this.store.put("images", { ...record, serverId: id, ...details });
        })();
        this.uploads.set(record.id, upload);
        this.transfers.set(record.id, transfer);
        const end = () => {
            this.uploads.delete(record.id);
            this.transfers.delete(record.id);
            this.emit("image");
        };
        upload.then(end, end);
        return upload;
    }

    /** Return the record of an image without waiting for its upload; undefined if there is none. */
    async record(id) {
        return this.transfers.get(id)?.record ?? this.store.get("images", id);
    }

    /** Change the image of the open conversation, which has no turns. */
    setImage(imageId, imageName) {
        Object.assign(this.conversation, { imageId, imageName, updated: Date.now() });
        this.emit("image");
        this.save();
    }

    /** Return the record of an image, after its upload has ended. */
    async image(id) {
        const record = (await this.uploads.get(id)) ?? (await this.store.get("images", id));
        if (!record) throw new Error(words.imageGone);
        return record;
    }

    /** Whether an answer of a conversation is running. */
    runsIn(conversation) {
        return [...this.running.keys()].some((id) => id in conversation.nodes);
    }

    /** Stop the running answers of the open conversation. */
    stop() {
        for (const [id, controller] of this.running) if (id in this.conversation.nodes) controller.abort();
    }

    /** Save a conversation soon. */
    save(conversation = this.conversation) {
        clearTimeout(this.timers.get(conversation.id));
        this.timers.set(conversation.id, setTimeout(() => this.saveNow(conversation), SAVE_DELAY_MS));
    }

    /** Save a conversation, unless it is new and there is nothing in it. */
    async saveNow(conversation = this.conversation) {
        clearTimeout(this.timers.get(conversation.id));
        this.timers.delete(conversation.id);
        const hasContent = !isEmpty(conversation) || conversation.imageId || conversation.draft;
        if (!hasContent && !(await this.store.get("conversations", conversation.id))) return;
        await this.store.put("conversations", conversation);
        this.emit("list");
    }

    /** Delete a conversation that was left with nothing in it. */
    discard(conversation) {
        clearTimeout(this.timers.get(conversation.id));
        this.timers.delete(conversation.id);
        this.store.remove("conversations", conversation.id).then(() => this.emit("list"));
    }

    /** Save all conversations with changes, as before the tab is hidden or closed. */
    saveAll() {
        for (const conversation of this.opened.values()) if (this.timers.has(conversation.id)) this.saveNow(conversation);
    }

    /** Take over what another tab has written. */
    async reload(id) {
        if (id === null || id === this.conversation.id) {
            const stored = await this.store.get("conversations", this.conversation.id);
            if (stored && !this.timers.has(stored.id) && stored.updated > this.conversation.updated) {
                for (const [nodeId, node] of Object.entries(stored.nodes)) {
                    if (!this.running.has(nodeId)) this.conversation.nodes[nodeId] = node;
                }
                Object.assign(this.conversation.chosen, stored.chosen);
                this.conversation.title = stored.title;
                this.emit("change");
            }
        }
        this.emit("list");
    }

    reportFull() {
        if (this.removeFullMessage) return;
        this.removeFullMessage = toast(words.full, { kind: "error" });
    }
}

/** Mark answers that were running when the page was closed as stopped. */
function endInterrupted(conversation, running) {
    for (const node of Object.values(conversation.nodes)) {
        if (node.status === "running" && !running.has(node.id)) Object.assign(node, { status: "stopped", phase: null });
    }
}
