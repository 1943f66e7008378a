/** Votes and corrections: which answer is better. The server appends them to its file. */

import { sendVote } from "../core/api.js";
import { promptTurns } from "../core/conversation.js";
import { toast } from "../core/dialogs.js";
import { texts } from "../core/i18n.js";

const words = texts({
    en: { saved: (count) => `Saved, thank you. Entries in the file: ${count}` },
    zh: { saved: (count) => `已保存，谢谢。文件现有 ${count} 条记录。` },
});

/**
 * Send which of two answers to a question is better. A toast says that it was saved, or why not.
 *
 * @param {App} app
 * @param {Object} node - one of the answers; its question, its image and the turns before it are sent too
 * @param {string} chosen - text of the better answer
 * @param {string} rejected - text of the other one
 * @returns {Promise<boolean>} whether it was saved
 */
export async function vote(app, node, chosen, rejected) {
    const { conversation } = app;
    const turns = promptTurns(conversation, node.parent);
    const row = { image_name: conversation.imageName, turns, question: node.question, chosen, rejected };
    try {
        const { count } = await app.images.send(conversation.imageId, (image) => sendVote({ ...row, image }));
        toast(words.saved(count));
        return true;
    } catch (error) {
        toast(error.message, { kind: "error" });
        return false;
    }
}
