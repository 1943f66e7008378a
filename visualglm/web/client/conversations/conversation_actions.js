/** What can be done with stored conversations: rename one, delete one, forget all. */

import { titleOf } from "../core/conversation.js";
import { askDialog, promptDialog, undoToast } from "../core/dialogs.js";
import { formatNumber } from "../core/i18n.js";
import { forgetEverything, hasContent, removeConversation, removeUnused, restoreConversation } from "../store/history.js";
import { words } from "./conversations_words.js";

/** Return a conversation by its identifier: the object that the page works with if it has one. */
async function find(app, id) {
    return app.opened.get(id) ?? app.store.get("conversations", id);
}

/** Ask for the new title of a conversation, and store it. */
export async function renameConversation(app, id) {
    const conversation = await find(app, id);
    const title = await promptDialog({
        title: words.renameTitle,
        label: words.name,
        value: titleOf(conversation),
        action: words.rename,
    });
    if (title === null) return;
    Object.assign(conversation, { title, updated: Date.now() });
    await app.saveNow(conversation);
    app.changed(conversation);
}

/** Delete a conversation, and offer to undo that; its image goes when the offer has ended. */
export async function deleteConversation(app, id) {
    const conversation = await find(app, id);
    const wasOpen = id === app.conversation.id;
    await removeConversation(app, conversation);
    const undo = async () => {
        await restoreConversation(app, conversation);
        if (wasOpen && !hasContent(app.conversation)) app.show(conversation);
    };
    undoToast(words.deleted, undo, () => conversation.imageId && removeUnused(app, conversation.imageId));
}

/**
 * Delete all conversations, images and settings after the visitor's consent.
 *
 * @param {App} app
 * @param {number} count - of conversations, for the question
 * @param {Function} onConsent - called before anything is deleted
 * @returns {Promise<boolean>} whether the visitor agreed
 */
export async function askToForget(app, count, onConsent) {
    const choice = await askDialog({
        title: words.forgetTitle,
        text: words.forgetText(formatNumber(count)),
        actions: [{ value: "forget", label: words.forgetAction, kind: "danger" }],
    });
    if (choice !== "forget") return false;
    onConsent();
    await forgetEverything(app);
    return true;
}
