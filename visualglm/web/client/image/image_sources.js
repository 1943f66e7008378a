/** The ways by which images come to the page: the file chooser, dropping, pasting, the clipboard, a phone's camera. */

import { toast } from "../core/dialogs.js";
import { element, icon } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { takeImage } from "./image_intake.js";

const ACCEPT = "image/*,.heic,.heif,.avif,.tif,.tiff";
const IMAGE_NAME = /\.(png|jpe?g|gif|webp|bmp|tiff?|heic|heif|avif|jfif)$/i;
const words = texts({
    en: {
        drop: "Drop the image here",
        dropHint: "Several images open as a folder.",
        choose: "Choose an image file",
        photograph: "Take a photo with the camera",
        pasted: "pasted image",
        noClipboard: "There is no image in the clipboard.",
        denied: (key) => `The browser does not allow the page to read the clipboard. Press ${key} instead.`,
        deniedTouch: "The browser does not allow the page to read the clipboard.",
    },
    zh: {
        drop: "在此处放下图片",
        dropHint: "放下多张图片会作为文件夹打开。",
        choose: "选择图片文件",
        photograph: "用相机拍照",
        pasted: "粘贴的图片",
        noClipboard: "剪贴板中没有图片。",
        denied: (key) => `浏览器不允许页面读取剪贴板，请按 ${key} 粘贴。`,
        deniedTouch: "浏览器不允许页面读取剪贴板。",
    },
});

/** Whether the main pointer is a finger. */
export function isTouch() {
    return matchMedia("(pointer: coarse)").matches;
}

/** Return the keys that paste, as this system writes them. */
export function pasteKey() {
    return /Mac|iPhone|iPad/.test(navigator.userAgentData?.platform ?? navigator.platform) ? "⌘V" : "Ctrl+V";
}

/** Whether the page may read the clipboard; browsers allow that only on https and localhost. */
export function canReadClipboard() {
    return isSecureContext && Boolean(navigator.clipboard?.read);
}

/** Whether a webcam can be used; browsers allow that only on https and localhost. */
export function canUseWebcam() {
    return isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);
}

/** Take files: one becomes the image, several open the folder view, a saved conversation is opened. */
export function takeFiles(app, files) {
    const images = files.filter((file) => file.type.startsWith("image/") || IMAGE_NAME.test(file.name));
    const saved = files.find((file) => /\.json$/i.test(file.name));
    const isFolderShown = !document.getElementById("folder").hidden;
    if (images.length > 1 || (images.length && isFolderShown)) app.emit("folder", images);
    else if (saved && !images.length) app.emit("file", saved);
    else if (files.length) takeImage(app, images[0] ?? files[0], (images[0] ?? files[0]).name || words.pasted);
}

/** Create the hidden inputs of the file chooser and of a phone's camera; return functions that open them. */
function buildChoosers(app, panel) {
    const chooser = (label, attributes) => {
        const input = element("input", {
            type: "file",
            hidden: true,
            tabindex: "-1",
            "aria-label": label,
            ...attributes,
        });
        input.addEventListener("change", () => {
            takeFiles(app, [...input.files]);
            input.value = ""; // so that the same file can be chosen again
        });
        panel.append(input);
        return () => input.click();
    };
    return {
        chooseFile: chooser(() => words.choose, { id: "image-file", accept: ACCEPT, multiple: true }),
        photograph: chooser(() => words.photograph, { id: "image-camera", accept: "image/*", capture: "environment" }),
    };
}

/** Whether a drag brings files; a dragged text belongs to the text field. */
function bringsFiles(event) {
    return [...(event.dataTransfer?.types ?? [])].includes("Files");
}

/** Whether a modal dialog is open: the page behind it takes nothing. */
function isBlocked() {
    return Boolean(document.querySelector("#visualglm dialog[open]"));
}

/** Return the dropped files; those of a dropped folder, too. */
async function droppedFiles(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
    return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    const reader = entry.createReader();
    const files = [];
    while (true) {
        const found = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 a call
        if (!found.length) return files;
        files.push(...(await Promise.all(found.map(filesOf))).flat());
    }
}

function buildDropArea(app, root) {
    const overlay = element(
        "div",
        { id: "drop-overlay", hidden: true, "aria-hidden": "true" },
        element(
            "div",
            {},
            icon("image"),
            element("strong", {}, () => words.drop),
            element("span", {}, () => words.dropHint),
        ),
    );
    root.append(overlay);
    const hide = () => {
        overlay.hidden = true;
    };
    const over = (event) => {
        if (!bringsFiles(event)) return;
        event.preventDefault(); // otherwise the browser opens the file in the place of the page
        event.dataTransfer.dropEffect = isBlocked() ? "none" : "copy";
        overlay.hidden = isBlocked();
    };
    addEventListener("dragenter", over);
    addEventListener("dragover", over);
    addEventListener("dragleave", (event) => event.relatedTarget === null && hide());
    addEventListener("dragend", hide);
    addEventListener("drop", async (event) => {
        hide();
        if (!bringsFiles(event)) return;
        event.preventDefault();
        if (!isBlocked()) takeFiles(app, await droppedFiles(event.dataTransfer));
    });
}

/** Take an image that is pasted anywhere. In a text field, text comes before an image of that text. */
function pasteImage(app, event) {
    const { clipboardData } = event;
    const files = [...(clipboardData?.files ?? [])];
    if (!files.length || isBlocked()) return;
    const text = clipboardData.getData("text/plain").trim();
    const isInField = event.target.closest?.("input, textarea, [contenteditable]");
    const isFileName = files.some(({ name }) => text.endsWith(name)); // some systems add the names of copied files
    if (isInField && text && !isFileName) return;
    event.preventDefault();
    takeFiles(app, files);
}

/** Take an image from the clipboard, which the browser may ask the visitor to allow. */
async function readClipboard(app) {
    try {
        for (const item of await navigator.clipboard.read()) {
            const type = item.types.find((name) => name.startsWith("image/"));
            if (type) return await takeImage(app, await item.getType(type), words.pasted);
        }
        toast(words.noClipboard);
    } catch {
        toast(isTouch() ? words.deniedTouch : words.denied(pasteKey()), { kind: "error" });
    }
}

/**
 * Listen to dropped and pasted images.
 *
 * @param {App} app
 * @returns {{chooseFile: Function, photograph: Function, readClipboard: Function}} functions that open the other sources
 */
export function buildSources(app) {
    const root = document.getElementById("visualglm");
    buildDropArea(app, root);
    document.addEventListener("paste", (event) => pasteImage(app, event));
    return { ...buildChoosers(app, document.getElementById("image-panel")), readClipboard: () => readClipboard(app) };
}
