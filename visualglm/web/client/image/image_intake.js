/** Takes an image into a conversation: checks the file, asks for consent, shows it at once, and sends it. */

import { askConsent, isOwnImage, moveBack, moveOn } from "../conversations/consent.js";
import { isEmpty } from "../core/conversation.js";
import { toast, undoToast } from "../core/dialogs.js";
import { formatNumber, texts } from "../core/i18n.js";

const REPLACED_BY_CONSENT = new Set(["example", "scene"]); // `askConsent` asks before these replace an image
const MIB = 1024 * 1024;
const words = texts({
    en: {
        tooLarge: (name, limit) => `${name} is too large: an image may have at most ${limit} MiB.`,
        empty: (name) => `${name} is empty.`,
        noImage: (name) => `${name} is not an image.`,
        unreadable: (name) => `${name} cannot be read. Choose it again.`,
        failed: (name, reason) => `${name} was not added. ${reason}`,
        again: "Try again",
        replaced: "The image was replaced.",
        removed: "The image was removed.",
    },
    zh: {
        tooLarge: (name, limit) => `${name} 太大：图片最大为 ${limit} MiB。`,
        empty: (name) => `${name} 是空文件。`,
        noImage: (name) => `${name} 不是图片。`,
        unreadable: (name) => `无法读取 ${name}，请重新选择。`,
        failed: (name, reason) => `未能添加 ${name}。${reason}`,
        again: "重试",
        replaced: "图片已替换。",
        removed: "图片已移除。",
    },
});

/** Return why a file cannot be sent, "" if it can. The server has the last word. */
export function fileProblem(app, file, name) {
    const limit = app.info.limits.image_bytes;
    if (!file.size) return words.empty(name);
    if (file.size > limit) return words.tooLarge(name, formatNumber(limit / MIB));
    if (/^(text|video|audio|application)\/./.test(file.type) && file.type !== "application/octet-stream") {
        return words.noImage(name);
    }
    return "";
}

/** Read a file into memory: a file on disk may change or vanish before it was sent. */
async function snapshot(file, name) {
    try {
        return new Blob([await file.arrayBuffer()], { type: file.type });
    } catch {
        toast(words.unreadable(name), { kind: "error" });
        return null;
    }
}

/**
 * Make a file the image of the open conversation, or of a new one if that has turns.
 *
 * The image is shown at once. If its upload fails, the former image is shown again and a message says why.
 *
 * @param {App} app
 * @param {Blob} file
 * @param {string} name - of the file, for people
 * @param {Object} [options]
 * @param {string} [options.cause] - see `askConsent`
 * @param {Object} [options.details] - further properties of the image's record
 * @returns {Promise<{record: Object, done: Promise<boolean>}|null>} `done` tells whether the server has accepted it;
 *     null if the image was not taken
 */
export async function takeImage(app, file, name, { cause = "image", details = {} } = {}) {
    const problem = fileProblem(app, file, name);
    if (problem) {
        toast(problem, { kind: "error" });
        return null;
    }
    const blob = await snapshot(file, name);
    if (!blob) return null;
    const { imageId } = app.conversation;
    const old = imageId && (await app.images.record(imageId));
    const isLost = Boolean(imageId) && !old; // the conversation goes on with the image that is added again
    if (!isLost && !(await askConsent(app, cause))) return null;
    const { record, done } = app.images.add(blob, name, details);
    const goBack = placeImage(app, record, isLost);
    if (isOwnImage(old) && !goBack.isNew && !REPLACED_BY_CONSENT.has(cause)) undoToast(words.replaced, goBack);
    const retry = () => takeImage(app, blob, name, { cause, details });
    return {
        record,
        done: done.then(
            () => true,
            (error) => fail(error, goBack, retry, name),
        ),
    };
}

/** Show an image in the open conversation or in a new one; return a function that shows the former image again. */
function placeImage(app, record, inPlace) {
    const { conversation } = app;
    const { imageId, imageName } = conversation;
    if (inPlace || isEmpty(conversation)) {
        app.images.transfers.get(imageId)?.cancel();
        app.setImage(record.id, record.name);
        const goBack = () => {
            if (conversation.imageId !== record.id) return; // replaced meanwhile
            Object.assign(conversation, { imageId, imageName, updated: Date.now() });
            if (conversation === app.conversation) app.emit("image");
            app.save(conversation);
        };
        return Object.assign(goBack, { isNew: false });
    }
    moveOn(app, record.id, record.name);
    const started = app.conversation;
    const goBack = () => {
        if (started.imageId !== record.id) return;
        if (started === app.conversation && isEmpty(started)) moveBack(app, conversation);
        else Object.assign(started, { imageId: null, imageName: "", updated: Date.now() });
        app.emit("image");
    };
    return Object.assign(goBack, { isNew: true });
}

function fail(error, goBack, retry, name) {
    goBack();
    if (error.name === "AbortError") return false; // the visitor canceled it
    const canRetry = ["offline", "busy", "internal", "out_of_memory"].includes(error.code);
    toast(words.failed(name, error.message), {
        kind: "error",
        action: canRetry ? { label: words.again, run: retry } : null,
    });
    return false;
}

/** Remove the image of the open conversation; with turns, a conversation without an image starts after consent. */
export async function removeImage(app) {
    const { conversation } = app;
    const { imageId, imageName } = conversation;
    app.images.transfers.get(imageId)?.cancel();
    if (!isEmpty(conversation)) {
        if (await askConsent(app, "removal")) moveOn(app, null, "");
        return;
    }
    app.setImage(null, "");
    undoToast(words.removed, () => {
        if (conversation === app.conversation && isEmpty(conversation) && !conversation.imageId)
            app.setImage(imageId, imageName);
    });
}
