/** The state of the page: the open conversation, the settings, running answers. Parts listen to its events. */

import { hasContent, removeUnused } from "../store/history.js";
import { Images } from "../store/images.js";
import { applyJournals, writeJournal } from "../store/journal.js";
import { absorbConversation } from "../store/merging.js";
import { Tabs } from "../store/tabs.js";
import { newConversation } from "./conversation.js";
import { removeToasts, toast } from "./dialogs.js";
import { texts } from "./i18n.js";

const SAVE_DELAY_MS = 300;
const words = texts({
    en: {
        full: "The browser's storage is full: this conversation is kept in this tab only. Save it as a file, or delete old conversations.",
        failed: "The browser cannot store anything at the moment: what you do is kept in this tab only. Save it as a file.",
        outdated: "This page was updated in another tab. Reload it; until then nothing is stored.",
        reload: "Reload",
    },
    zh: {
        full: "浏览器存储空间已满：此对话只保留在当前标签页。请将其保存为文件，或删除旧对话。",
        failed: "浏览器目前无法存储：你的操作只保留在当前标签页。请保存为文件。",
        outdated: "此页面已在另一个标签页中更新。请刷新；在此之前不会存储任何内容。",
        reload: "刷新",
    },
});

/**
 * The page's state.
 *
 * Events (see `on`): "open": another conversation is shown; "change": its nodes or its draft changed; "node": one node
 * changed (detail: the node); "image": its image changed, or the upload of an image began or ended; "upload": a part of
 * an image was sent (detail: the transfer); "running": an answer began or ended; "settings": a setting changed;
 * "comparison": comparing was switched on, off or changed; "list": the stored conversations changed
 * (detail: the id of one, or null); "forget": everything was deleted; "folder": images for the folder; "file": a saved
 * conversation was dropped; "map": a map over the image is to be shown, or the plain image (detail: the map, or null);
 * "view": the conversation is to be shown in the place of the folder.
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
        this.settings = defaultSettings(info);
        this.comparison = null; // {sides: [{model, settings}, {model, settings}]} while each question is asked twice
        this.running = new Map(); // node id -> AbortController
        this.images = new Images(this);
        this.opened = new Map([[this.conversation.id, this.conversation]]); // conversations with unsaved or running nodes
        this.listeners = new Map();
        this.timers = new Map(); // conversation id -> timer of the next save
        this.unsaved = new Map(); // id -> conversation with changes that are not stored yet
        this.dropped = new Set(); // ids of conversations that were deleted here
        this.reported = new Set(); // messages about the store that the visitor has seen
        this.tabs = new Tabs(this);
        store.onProblem = (error) => this.report(error);
        store.onClosing = () => this.saveAll();
        addEventListener("pagehide", () => this.leave());
        document.addEventListener("freeze", () => this.leave());
        document.addEventListener("resume", () => writeJournal(store, this.tabs.id, []));
        addEventListener("pageshow", ({ persisted }) => persisted && writeJournal(store, this.tabs.id, []));
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
        const left = await applyJournals(this.store);
        const [settings, last] = await Promise.all([
            this.store.get("values", "settings"),
            this.store.get("values", "last"),
        ]);
        Object.assign(this.settings, settings?.values);
        const id = this.tabs.shown ?? left ?? last?.value;
        const conversation = id && (await this.store.get("conversations", id));
        const draft = typed();
        const ownDraft = this.tabs.draft; // another tab may have stored a different one
        if (conversation) this.show(conversation);
        this.setDraft(joinDrafts(conversation && ownDraft !== null ? ownDraft : this.conversation.draft, draft));
        this.emit("settings");
        removeUnused(this);
    }

    /** Show a conversation. */
    show(conversation) {
        const { conversation: left } = this;
        if (left && !this.runsIn(left)) this.opened.delete(left.id);
        this.conversation = this.opened.get(conversation.id) ?? conversation;
        this.opened.set(this.conversation.id, this.conversation);
        if (left && this.unsaved.has(left.id)) this.saveNow(left);
        this.tabs.endInterrupted(this.conversation);
        this.remember();
        this.emit("open");
        this.emit("image");
        this.emit("running");
    }

    /** Remember the open conversation for the next visit. */
    remember() {
        this.tabs.remember(this.conversation);
        if (hasContent(this.conversation)) this.store.put("values", { id: "last", value: this.conversation.id });
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
        Object.assign(this.conversation, { draft: text, draftUpdated: Date.now() });
        this.emit("change");
        this.save();
    }

    /** Change a setting and store it. */
    setSetting(name, value) {
        this.changeSettings({ [name]: value });
    }

    /** Change settings and store them. */
    changeSettings(values) {
        Object.assign(this.settings, values);
        this.store.put("values", { id: "settings", values: this.settings });
        this.emit("settings");
    }

    /** Change the image of the open conversation, which has no turns. */
    setImage(imageId, imageName) {
        Object.assign(this.conversation, { imageId, imageName, updated: Date.now() });
        this.emit("image");
        this.save();
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
        this.cancelSave(conversation);
        this.unsaved.set(conversation.id, conversation);
        this.timers.set(conversation.id, setTimeout(() => this.saveNow(conversation), SAVE_DELAY_MS));
    }

    /** Forget that a conversation has changes to save. */
    cancelSave(conversation) {
        clearTimeout(this.timers.get(conversation.id));
        this.timers.delete(conversation.id);
        this.unsaved.delete(conversation.id);
    }

    /** Delete a conversation that was left with nothing in it. */
    discard(conversation) {
        this.cancelSave(conversation);
        this.store.remove("conversations", conversation.id).then(() => this.emit("list", conversation.id));
    }

    /** Save a conversation, unless it was deleted, or it is new and there is nothing in it. */
    async saveNow(conversation = this.conversation) {
        const { id } = conversation;
        this.cancelSave(conversation);
        if (this.dropped.has(id) || (!hasContent(conversation) && !(await this.store.get("conversations", id)))) return;
        this.unsaved.set(id, conversation); // until it is on disk
        const stored = await this.store.put("conversations", conversation);
        if (!this.timers.has(id)) this.unsaved.delete(id);
        if (conversation === this.conversation) this.remember();
        if (this.absorb(conversation, stored)) this.changed(conversation);
        this.emit("list", id);
    }

    /** Save a conversation with the answers that this tab is writing. */
    saveRunning(conversation) {
        for (const id of this.running.keys()) if (id in conversation.nodes) conversation.nodes[id].updated = Date.now();
        return this.saveNow(conversation);
    }

    /** Return the conversations with changes, or with answers that grow. */
    changedConversations() {
        const growing = [...this.opened.values()].filter((conversation) => this.runsIn(conversation));
        return [...new Set([...this.unsaved.values(), ...growing])].filter(({ id }) => !this.dropped.has(id));
    }

    /** Save all conversations with changes, as before the tab is hidden. */
    saveAll() {
        for (const conversation of this.changedConversations()) this.saveRunning(conversation);
    }

    /** Keep all changes, as before the tab is closed, reloaded, or frozen by a phone. */
    leave() {
        const conversations = this.changedConversations();
        this.saveAll();
        this.tabs.remember(this.conversation);
        writeJournal(this.store, this.tabs.id, conversations);
        this.tabs.leave();
    }

    /** Take over what another tab has written. */
    async reload(id) {
        const conversation = this.opened.get(id);
        const stored = conversation && (await this.store.get("conversations", id));
        if (stored && this.absorb(conversation, stored)) this.changed(conversation);
        this.emit("list", id);
    }

    absorb(conversation, stored) {
        const { imageId } = conversation;
        const isChanged = stored !== conversation && absorbConversation(conversation, stored, this.running);
        if (conversation === this.conversation && imageId !== conversation.imageId) this.emit("image");
        return isChanged;
    }

    /** Tell the parts that nodes of a conversation changed, if it is the open one. */
    changed(conversation) {
        if (conversation !== this.conversation) return;
        this.emit("change");
        this.emit("running");
        this.tabs.endInterrupted(conversation);
    }

    /** Forget all conversations and settings in this tab. */
    forget() {
        for (const controller of this.running.values()) controller.abort();
        for (const conversation of [...this.opened.values(), ...this.unsaved.values()]) {
            this.dropped.add(conversation.id);
            this.cancelSave(conversation);
        }
        this.opened.clear();
        removeToasts(); // some could undo a deletion
        this.settings = defaultSettings(this.info);
        this.startNew();
        this.emit("settings");
        this.emit("forget");
        this.emit("list", null);
    }

    /** Tell the visitor once why the store does not work. */
    report(error) {
        const isOutdated = this.store.reason === "outdated";
        const text = isOutdated ? words.outdated : error.name === "QuotaExceededError" ? words.full : words.failed;
        if (this.reported.has(text)) return;
        this.reported.add(text);
        toast(text, { kind: "error", action: isOutdated ? { label: words.reload, run: () => location.reload() } : null });
        this.emit("list", null);
    }
}

function defaultSettings(info) {
    return Object.fromEntries(Object.entries(info.settings).map(([name, { value }]) => [name, value]));
}

/** Return a stored draft followed by what was typed before it was there. */
function joinDrafts(stored, typed) {
    return !stored || !typed || typed.includes(stored) ? typed || stored : `${stored}\n${typed}`;
}
