/** Asks before the open conversation is left for a new one, and says what happens to it. */

import { isEmpty } from "../core/conversation.js";
import { askDialog, undoToast } from "../core/dialogs.js";
import { texts } from "../core/i18n.js";

const words = texts({
    en: {
        space: " ",
        keep: "Keep this conversation",
        keepImage: "Keep my image",
        stored: "This conversation stays in the list of conversations.",
        inTab: "This conversation is kept until you close this tab.",
        running: "Its running answer goes on.",
        causes: {
            image: [
                "Start a conversation about the new image?",
                "A conversation is about one image, so another image starts a new one.",
                "Start new conversation",
            ],
            removal: ["Remove the image?", "This starts a new conversation without an image.", "Remove the image"],
            file: ["Open the file?", "The file opens as a conversation of its own.", "Open the file"],
            clear: [
                "Start a new conversation?",
                "The new conversation keeps the image, and starts without the earlier questions.",
                "Start new conversation",
            ],
            example: [
                "Start a conversation about the example?",
                "The example takes the place of your image, in a new conversation.",
                "Use the example",
            ],
            scene: [
                "Start a conversation about a random scene?",
                "The scene takes the place of your image, in a new conversation.",
                "Use the scene",
            ],
            part: [
                "Ask about this part?",
                "The part becomes the image of a new conversation.",
                "Start new conversation",
            ],
            drawing: [
                "Start a conversation about the drawing?",
                "The drawing becomes the image of a new conversation.",
                "Start new conversation",
            ],
            other: ["Start a new conversation?", "This starts a new conversation.", "Start new conversation"],
        },
        replace: {
            example: [
                "Replace your image with the example?",
                "The question is about the example. Your image is removed from this page.",
                "Use the example",
            ],
            scene: [
                "Replace your image with a random scene?",
                "Your image is removed from this page.",
                "Use the scene",
            ],
        },
        started: "A new conversation has started.",
    },
    zh: {
        space: "",
        keep: "保留当前对话",
        keepImage: "保留我的图片",
        stored: "当前对话会保留在对话列表中。",
        inTab: "当前对话会保留到你关闭此标签页为止。",
        running: "正在生成的回答会继续。",
        causes: {
            image: ["开始关于新图片的对话？", "每个对话只针对一张图片，换图片会开始新的对话。", "开始新对话"],
            removal: ["移除图片？", "将开始一个没有图片的新对话。", "移除图片"],
            file: ["打开文件？", "文件会作为一个单独的对话打开。", "打开文件"],
            clear: ["开始新对话？", "新对话使用同一张图片，不含以前的问答。", "开始新对话"],
            example: ["开始关于示例图片的对话？", "示例图片将代替你的图片，并开始新的对话。", "使用示例"],
            scene: ["开始关于随机场景的对话？", "随机场景将代替你的图片，并开始新的对话。", "使用场景"],
            part: ["针对这个局部提问？", "这个局部将成为新对话的图片。", "开始新对话"],
            drawing: ["开始关于这幅画的对话？", "这幅画将成为新对话的图片。", "开始新对话"],
            other: ["开始新对话？", "将开始一个新的对话。", "开始新对话"],
        },
        replace: {
            example: ["用示例代替你的图片？", "这个问题针对示例图片。你的图片将从页面移除。", "使用示例"],
            scene: ["用随机场景代替你的图片？", "你的图片将从页面移除。", "使用场景"],
        },
        started: "已开始新对话。",
    },
});
let isAsking = false; // a second image, as of a repeated paste, does not open a second dialog

/** Whether an image is the visitor's: no example and no drawn scene. */
export function isOwnImage(record) {
    return Boolean(record) && !record.example && !record.scene;
}

/**
 * Ask whether the open conversation may be left. There is no question if nothing would be lost from sight.
 *
 * @param {App} app
 * @param {"image"|"removal"|"file"|"clear"|"example"|"scene"|"part"|"drawing"} cause
 * @returns {Promise<boolean>} false if the visitor keeps the conversation
 */
export async function askConsent(app, cause) {
    const { conversation } = app;
    if (!isEmpty(conversation)) {
        const [title, text, action] = words.causes[cause] ?? words.causes.other;
        const kept = app.store.isPersistent ? words.stored : words.inTab;
        const running = app.runsIn(conversation) ? words.running : "";
        return askOnce(title, [text, kept, running].filter(Boolean).join(words.space), action, words.keep);
    }
    const isReplaced = cause in words.replace && conversation.imageId;
    if (!isReplaced || !isOwnImage(await app.images.record(conversation.imageId))) return true;
    return askOnce(...words.replace[cause], words.keepImage);
}

async function askOnce(title, text, action, cancel) {
    if (isAsking) return false;
    isAsking = true;
    try {
        return Boolean(
            await askDialog({ title, text, cancel, actions: [{ value: "yes", label: action, kind: "primary" }] }),
        );
    } finally {
        isAsking = false;
    }
}

/**
 * Start a new conversation after the visitor's consent. What was typed and not sent goes with it.
 *
 * @param {App} app
 * @param {Object} options
 * @param {string} options.cause - see `askConsent`
 * @param {string|null} [options.imageId] - of a record in the store
 * @param {string} [options.imageName]
 * @returns {Promise<Object|null>} the former conversation; null if the visitor keeps it
 */
export async function startConversation(app, { cause, imageId = null, imageName = "" }) {
    if (!(await askConsent(app, cause))) return null;
    return moveOn(app, imageId, imageName);
}

/** Start a new conversation without a question, with what was typed and not sent; return the former one. */
export function moveOn(app, imageId, imageName) {
    const former = app.conversation;
    const { draft } = former;
    Object.assign(former, { draft: "", draftUpdated: Date.now() });
    if (draft) app.save(former);
    app.startNew(imageId, imageName, draft);
    app.save();
    return former;
}

/** Return to a conversation that was left by `moveOn`, with what was typed since. */
export function moveBack(app, former) {
    const { conversation: left } = app;
    Object.assign(former, { draft: left.draft, draftUpdated: Date.now() });
    left.draft = "";
    app.show(former);
    app.save(former);
    if (isEmpty(left)) app.discard(left);
}

/** Start a new conversation about the same image, with a message that can undo it. */
export async function clearConversation(app) {
    const { imageId, imageName } = app.conversation;
    const former = await startConversation(app, { cause: "clear", imageId, imageName });
    if (!former) return;
    const started = app.conversation;
    const undo = () => (app.conversation === started ? moveBack(app, former) : app.show(former));
    undoToast(words.started, undo);
}
