/** Conversations as files: save, load, copy and share the open one. */

import { askConsent } from "./consent.js";
import { isEmpty } from "./conversation.js";
import { copyText } from "./clipboard.js";
import { openMenu, toast } from "./dialogs.js";
import { element, iconButton } from "./dom.js";
import { fileName, toHtml, toMarkdown, toText } from "./exporting.js";
import { formatNumber, texts } from "./i18n.js";
import { SavedConversationError, fromText, toDocument } from "./saved_conversation.js";
import { addShortcut } from "./shortcuts.js";

const TEXT_BYTES = 16 * 1024 * 1024; // of a file, besides its image
const MIB = 1024 * 1024;
const words = texts({
    en: {
        menu: "Save, share or load",
        saveJson: "Save as a file",
        saveMarkdown: "Save as Markdown",
        share: "Share as a web page",
        copy: "Copy as text",
        load: "Open a saved conversation",
        folder: "Folder of images",
        image: "image",
        copied: "The conversation was copied.",
        notCopied: "The browser does not allow the page to copy. Save the conversation as a file.",
        shared: "The file holds the image and the words. It opens in any browser, also without a network.",
        saved: (name) => `Saved: ${name}`,
        withoutImage: (name) => `Saved without its image, which is no longer in this browser: ${name}`,
        opened: "The saved conversation is open.",
        faults: {
            tooLarge: ({ limit }) => `The file has more than ${limit} MiB. A saved conversation is smaller.`,
            parts: () => "The file has too many parts. Choose a conversation that this page has saved.",
            json: () => "The file is not JSON. Choose a conversation that this page has saved.",
            format: () => "The file is not a saved conversation. Choose one that this page has saved.",
            version: ({ version }) => `The conversation is not of version ${version}. Open it with a newer page.`,
            turns: ({ limit }) => `The file has no list of at most ${limit} turns. Save the conversation again.`,
            turn: ({ number, limit }) =>
                `Turn ${number} of the file lacks a question or an answer of at most ${limit} characters. Correct or remove it.`,
            text: ({ limit }) => `The file has more than ${limit} characters of text. Remove some turns.`,
            branches: () => "The branches of the file are damaged. Save the conversation again.",
            image: () => "The image of the file is not a data URL of an image. Save the conversation again.",
            imageSize: ({ limit }) => `The image of the file has more than ${limit} MiB.`,
            unreadable: () => "The file cannot be read. Choose it again.",
        },
    },
    zh: {
        menu: "保存、分享或打开",
        saveJson: "保存为文件",
        saveMarkdown: "保存为 Markdown",
        share: "以网页形式分享",
        copy: "复制为文本",
        load: "打开已保存的对话",
        folder: "图片文件夹",
        image: "图片",
        copied: "对话已复制。",
        notCopied: "浏览器不允许此页面复制。请把对话保存为文件。",
        shared: "文件包含图片和文字，可在任何浏览器中打开，无需网络。",
        saved: (name) => `已保存：${name}`,
        withoutImage: (name) => `图片已不在此浏览器中，保存的文件不含图片：${name}`,
        opened: "已打开保存的对话。",
        faults: {
            tooLarge: ({ limit }) => `文件超过 ${limit} MiB，保存的对话不会这么大。`,
            parts: () => "文件的组成部分过多。请选择由此页面保存的对话。",
            json: () => "文件不是 JSON。请选择由此页面保存的对话。",
            format: () => "文件不是保存的对话。请选择由此页面保存的对话。",
            version: ({ version }) => `对话不是版本 ${version}。请用更新的页面打开。`,
            turns: ({ limit }) => `文件里没有最多 ${limit} 轮的列表。请重新保存对话。`,
            turn: ({ number, limit }) => `文件的第 ${number} 轮缺少问题或回答，或超过 ${limit} 个字符。请更正或删除该轮。`,
            text: ({ limit }) => `文件的文字超过 ${limit} 个字符。请删除一些轮次。`,
            branches: () => "文件的分支已损坏。请重新保存对话。",
            image: () => "文件中的图片不是图片的 data URL。请重新保存对话。",
            imageSize: ({ limit }) => `文件中的图片超过 ${limit} MiB。`,
            unreadable: () => "无法读取文件，请重新选择。",
        },
    },
});

/** Build the menu of files, and take saved conversations that are dropped on the page. */
export function buildFiles(app) {
    const input = element("input", {
        type: "file",
        id: "conversation-file",
        accept: ".json,application/json",
        hidden: true,
        tabindex: "-1",
        "aria-label": () => words.load,
    });
    input.addEventListener("change", () => {
        if (input.files.length) loadConversation(app, input.files[0]);
        input.value = ""; // so that the same file can be chosen again
    });
    const button = iconButton("download", () => words.menu, {
        id: "files-button",
        "aria-haspopup": "menu",
        "aria-expanded": "false",
        style: { order: 6 },
    });
    button.addEventListener("click", () => openMenu(button, menuItems(app, () => input.click())));
    document.getElementById("tools").append(button, input);
    app.on("file", (file) => loadConversation(app, file));
    addShortcut({ keys: "Control+s", shown: "Control+S", label: () => words.saveJson, run: () => saveConversation(app) });
}

function menuItems(app, choose) {
    const hasTurns = !isEmpty(app.conversation);
    const isNarrow = matchMedia("(max-width: 600px)").matches; // there the folder has no button of its own
    return [
        hasTurns && { label: words.saveJson, iconName: "download", run: () => saveConversation(app) },
        hasTurns && { label: words.saveMarkdown, iconName: "download", run: () => saveMarkdown(app) },
        hasTurns && { label: words.share, iconName: "share", run: () => shareConversation(app) },
        hasTurns && { label: words.copy, iconName: "copy", run: () => copyConversation(app) },
        { label: words.load, iconName: "folder", run: choose },
        isNarrow && { label: words.folder, iconName: "image", run: () => app.emit("folder", []) },
    ].filter(Boolean);
}

/** Offer a file to the visitor, who finds it among the downloads. */
export function download(content, name, type) {
    const url = URL.createObjectURL(new Blob([content], { type }));
    const link = element("a", { href: url, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Return the image's record, undefined if the conversation has none or the browser has lost it. */
async function imageOf(app) {
    const { imageId } = app.conversation;
    return imageId ? app.record(imageId) : undefined;
}

function toDataUrl(blob) {
    return new Promise((resolve, reject) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result);
        reader.onerror = () => reject(reader.error);
        reader.readAsDataURL(blob);
    });
}

/** Return the original image as a data URL, whose media type is always one of images; null if there is no image. */
async function originalUrl(record) {
    if (!record) return null;
    const type = /^image\/[\w.+-]{1,99}$/.test(record.blob.type) ? record.blob.type : "image/x-picture";
    return toDataUrl(new Blob([record.blob], { type }));
}

/** Return the image for people: the preview, which every browser shows and which holds no place and no camera. */
async function shownUrl(record) {
    return record?.preview || originalUrl(record);
}

/** Save the open conversation as a file that can be loaded again. */
export async function saveConversation(app) {
    const { conversation } = app;
    const record = await imageOf(app);
    const document = toDocument(conversation, await originalUrl(record), app.settings);
    const name = fileName(conversation.imageName, "json");
    download(`${JSON.stringify(document, null, 1)}\n`, name, "application/json");
    const isImageLost = conversation.imageId && !record;
    toast(isImageLost ? words.withoutImage(name) : words.saved(name), { kind: isImageLost ? "error" : "info" });
}

async function saveMarkdown(app) {
    const name = fileName(app.conversation.imageName, "md");
    download(toMarkdown(app.conversation, await shownUrl(await imageOf(app))), name, "text/markdown");
    toast(words.saved(name));
}

/** Share the open conversation as one HTML file: by the system of a phone, otherwise as a download. */
async function shareConversation(app) {
    const html = toHtml(app.conversation, await shownUrl(await imageOf(app)), app.info.model.name);
    const name = fileName(app.conversation.imageName, "html");
    const file = new File([html], name, { type: "text/html" });
    const isTouch = matchMedia("(pointer: coarse)").matches;
    if (isTouch && navigator.canShare?.({ files: [file] })) {
        try {
            await navigator.share({ files: [file], title: name });
            return;
        } catch (error) {
            if (error.name === "AbortError") return; // the visitor canceled it
        }
    }
    download(html, name, "text/html");
    toast(`${words.saved(name)} ${words.shared}`);
}

async function copyConversation(app) {
    const isCopied = await copyText(toText(app.conversation));
    toast(isCopied ? words.copied : words.notCopied, { kind: isCopied ? "info" : "error" });
}

/** Open a saved conversation, after consent to leave the open one. */
export async function loadConversation(app, file) {
    try {
        const { conversation, image } = await readFile(app, file);
        if (!(await askConsent(app, "file"))) return;
        if (image) await giveImage(app, conversation, image);
        app.show(conversation);
        app.save(conversation);
        toast(words.opened);
    } catch (error) {
        const fault = error instanceof SavedConversationError && words.faults[error.code];
        toast(fault ? fault(shownDetails(error.details)) : error.message, { kind: "error" });
    }
}

async function readFile(app, file) {
    const { limits } = app.info;
    const limit = (limits.image_bytes * 4) / 3 + TEXT_BYTES;
    if (file.size > limit) throw new SavedConversationError("tooLarge", { limit: Math.floor(limit / MIB) });
    const text = await file.text().catch(() => {
        throw new SavedConversationError("unreadable");
    });
    try {
        return fromText(text, limits);
    } catch (error) {
        if (error.code === "imageSize") error.details.limit = Math.floor(limits.image_bytes / MIB);
        throw error;
    }
}

function shownDetails(details) {
    return Object.fromEntries(Object.entries(details).map(([name, value]) => [name, formatNumber(value)]));
}

/** Send the image of a loaded conversation to the server, which validates it; without a connection that happens later. */
async function giveImage(app, conversation, image) {
    const name = conversation.imageName || words.image;
    const { record, done } = app.startUpload(image, name);
    await done.catch((error) => {
        if (error.code !== "offline") throw error;
    });
    Object.assign(conversation, { imageId: record.id, imageName: name });
}
