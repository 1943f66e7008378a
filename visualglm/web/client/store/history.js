/** Delete what is stored: a conversation, images that nothing uses any more, or everything. */

import { isEmpty } from "../core/conversation.js";
import { removeJournals, writeJournal } from "./journal.js";

const KEPT_MS = 60 * 60 * 1000; // an unused image may belong to a conversation that another tab has not stored yet

/** Whether a conversation has anything that a list should show. */
export function hasContent(conversation) {
    return !isEmpty(conversation) || Boolean(conversation.imageId || conversation.draft);
}

/** Delete a conversation, and stop its answers. `restoreConversation` undoes it until its image is removed. */
export async function removeConversation(app, conversation) {
    app.dropped.add(conversation.id);
    for (const [id, controller] of app.running) if (id in conversation.nodes) controller.abort();
    app.cancelSave(conversation);
    app.opened.delete(conversation.id);
    writeJournal(app.store, app.tabs.id, []);
    await app.store.remove("conversations", conversation.id);
    if (conversation.id === app.conversation.id) app.startNew();
    app.emit("list", conversation.id);
}

/** Store a deleted conversation again. */
export async function restoreConversation(app, conversation) {
    app.dropped.delete(conversation.id);
    await app.store.put("conversations", conversation);
    app.emit("list", conversation.id);
}

/**
 * Remove the images that no conversation uses, and conversations with nothing in them.
 *
 * @param {App} app
 * @param {string|null} imageId - remove this image only, even a new one; null removes all unused ones that are old
 */
export async function removeUnused(app, imageId = null) {
    const conversations = await app.store.all("conversations");
    const used = new Set([...app.opened.values(), ...conversations].map((conversation) => conversation.imageId));
    if (imageId !== null) {
        if (!used.has(imageId)) await app.store.remove("images", imageId);
        return;
    }
    const oldest = Date.now() - KEPT_MS;
    for (const conversation of conversations) {
        const isKept = hasContent(conversation) || conversation.updated > oldest || app.opened.has(conversation.id);
        if (!isKept) await app.store.remove("conversations", conversation.id);
    }
    for (const id of (await app.store.ids("images")).filter((id) => !used.has(id) && !app.images.uploads.has(id))) {
        const { created = 0 } = (await app.store.get("images", id)) ?? {};
        if (created <= oldest) await app.store.remove("images", id);
    }
}

/** Delete all conversations, images and settings of this browser; other tabs forget them, too. */
export async function forgetEverything(app) {
    app.forget();
    removeJournals(app.store);
    await app.store.clear();
    removeJournals(app.store);
    app.emit("list", null);
}
