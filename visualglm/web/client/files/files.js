/** Conversations as files: save, load, copy and share the open one. */

import { askConsent } from "../conversations/consent.js";
import { copyText } from "../core/clipboard.js";
import { isEmpty } from "../core/conversation.js";
import { openMenu, toast } from "../core/dialogs.js";
import { element, iconButton } from "../core/dom.js";
import { formatNumber } from "../core/i18n.js";
import { addShortcut } from "../frame/shortcuts.js";
import { fileName, toHtml, toMarkdown, toText } from "./exporting.js";
import { words } from "./files_words.js";
import { SavedConversationError, fromText, toDocument } from "./saved_conversation.js";

const TEXT_BYTES = 16 * 1024 * 1024; // of a file, besides its image
const MIB = 1024 * 1024;
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
    return imageId ? app.images.record(imageId) : undefined;
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
    toast(words.shared(name));
}

async function copyConversation(app) {
    const isCopied = await copyText(toText(app.conversation));
    toast(isCopied ? words.copied : words.notCopied, { kind: isCopied ? "info" : "error" });
}

/** Open a saved conversation, after consent to leave the open one. */
export async function loadConversation(app, file) {
    try {
        const { conversation, image, settings } = await readFile(app, file);
        if (!(await askConsent(app, "file"))) return;
        if (image) await giveImage(app, conversation, image);
        app.show(conversation);
        app.save(conversation);
        useSettings(app, settings ?? {});
    } catch (error) {
        const fault = error.code === "invalid_image" ? words.faults.image : words.faults[error.code];
        toast(fault ? fault(shownDetails(error.details ?? {})) : error.message, { kind: "error" });
    }
}

/** Use the settings of a loaded conversation, and offer the former ones. */
function useSettings(app, settings) {
    const changed = Object.keys(settings).filter((name) => settings[name] !== app.settings[name]);
    const former = Object.fromEntries(changed.map((name) => [name, app.settings[name]]));
    if (!changed.length) {
        toast(words.opened);
        return;
    }
    app.changeSettings(settings);
    const undo = () => app.changeSettings(former);
    toast(words.openedWithSettings(changed.join(words.comma)), { action: { label: words.restoreSettings, run: undo, isUndo: true } });
}

async function readFile(app, file) {
    const { limits } = app.info;
    const limit = (limits.image_bytes * 4) / 3 + TEXT_BYTES;
    if (file.size > limit) throw new SavedConversationError("tooLarge", { limit: Math.floor(limit / MIB) });
    const text = await file.text().catch(() => {
        throw new SavedConversationError("unreadable");
    });
    try {
        return fromText(text, limits, app.info.settings);
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
    const { record, done } = app.images.add(image, name);
    await done.catch((error) => {
        if (["invalid_image", "image_too_large", "too_large"].includes(error.code)) throw error; // others may go away
    });
    Object.assign(conversation, { imageId: record.id, imageName: name });
}
