/** The panel with the image of the conversation, and the ways to add, change and remove it. On phones it is a strip. */

import { clearConversation } from "../conversations/consent.js";
import { isEmpty } from "../core/conversation.js";
import { focusFirst, openMenu } from "../core/dialogs.js";
import { element, icon, iconButton, refreshTexts } from "../core/dom.js";
import { formatNumber, onLanguage, texts } from "../core/i18n.js";
import { openExamples } from "../questions/examples.js";
import { openCamera } from "./camera.js";
import { openDrawingBoard } from "./drawing.js";
import { removeImage, takeImage } from "./image_intake.js";
import { buildSources, canReadClipboard, canUseWebcam, isTouch, pasteKey } from "./image_sources.js";
import { mapLayer } from "./image_map.js";
import { showImage } from "./image_view.js";
import { drawRandomScene } from "./scene.js";
import { openViewer } from "./viewer.js";

const words = texts({
    en: {
        add: "Add an image",
        hint: (key) => `or drop it anywhere on this page, or paste it with ${key}`,
        hintTouch: "from this device",
        limit: (size) => `At most ${size} MiB.`,
        camera: "Camera",
        photo: "Take a photo",
        paste: "Paste",
        draw: "Draw",
        drawLong: "Draw an image",
        choose: "Choose a file",
        scene: "Random scene",
        examples: "Examples",
        insecure: "The camera works only on https or localhost. Choosing, dropping and pasting a file work here, too.",
        change: "Another image",
        part: "Ask about a part",
        remove: "Remove",
        clear: "New conversation",
        plain: "Plain image",
        enlarge: (name) => `Enlarge the image: ${name}`,
        size: (width, height) => `${width} × ${height} px`,
        sending: (percent) => `Sending: ${percent} %`,
        sendingName: "Sending the image",
        reading: "The server reads the image",
        cancel: "Cancel",
        noPreview: "This browser cannot show the file. The server's preview follows.",
        gone: "The image of this conversation is no longer stored in this browser. Add it again to go on.",
    },
    zh: {
        add: "添加图片",
        hint: (key) => `也可以拖放到页面任意位置，或按 ${key} 粘贴`,
        hintTouch: "来自本设备",
        limit: (size) => `最大 ${size} MiB。`,
        camera: "摄像头",
        photo: "拍照",
        paste: "粘贴",
        draw: "画图",
        drawLong: "画一幅图",
        choose: "选择文件",
        scene: "随机场景",
        examples: "示例",
        insecure: "摄像头只能在 https 或 localhost 下使用。这里仍可选择、拖放或粘贴文件。",
        change: "换一张图片",
        part: "针对局部提问",
        remove: "移除",
        clear: "新对话",
        plain: "恢复原图",
        enlarge: (name) => `放大图片：${name}`,
        size: (width, height) => `${width} × ${height} 像素`,
        sending: (percent) => `正在发送：${percent} %`,
        sendingName: "正在发送图片",
        reading: "服务器正在读取图片",
        cancel: "取消",
        noPreview: "浏览器无法显示此文件，稍后显示服务器的预览。",
        gone: "此对话的图片已不在浏览器中。请重新添加后继续。",
    },
});

/** Create a button with an icon and a label; on phones only the icon is visible. */
function labeledButton(iconName, label, onclick, attributes = {}) {
    return element(
        "button.button",
        { type: "button", onclick, title: label, ...attributes },
        icon(iconName),
        element("span.label", {}, label),
    );
}

/** The ways to get an image, as items of a menu or buttons. */
function imageWays(app, sources) {
    const camera = isTouch()
        ? { label: words.photo, run: sources.photograph }
        : { label: words.camera, run: () => openCamera(app) };
    return [
        { label: words.choose, iconName: "image", run: sources.chooseFile },
        (isTouch() || canUseWebcam()) && { ...camera, iconName: "camera" },
        canReadClipboard() && { label: words.paste, iconName: "copy", run: sources.readClipboard },
        { label: words.drawLong, iconName: "draw", run: () => openDrawingBoard(app) },
        app.info.features.scenes && { label: words.scene, iconName: "dice", run: () => drawRandomScene(app) },
        app.info.examples.length > 0 && { label: words.examples, iconName: "grid", run: () => openExamples(app) },
    ].filter(Boolean);
}

function buildEmptyPanel(app, sources) {
    const hint = () => (isTouch() ? words.hintTouch : words.hint(pasteKey()));
    const limit = () => words.limit(formatNumber(app.info.limits.image_bytes / 1024 / 1024));
    const choose = element(
        "button.image-choose",
        { type: "button", onclick: sources.chooseFile },
        icon("image"),
        element("strong", {}, () => words.add),
        element("span.image-hint", {}, hint),
        element("span.image-hint", {}, limit),
    );
    const camera = isTouch()
        ? labeledButton("camera", () => words.photo, sources.photograph)
        : canUseWebcam() &&
          labeledButton(
              "camera",
              () => words.camera,
              () => openCamera(app),
          );
    const paste = canReadClipboard() && labeledButton("copy", () => words.paste, sources.readClipboard);
    const draw = labeledButton(
        "draw",
        () => words.draw,
        () => openDrawingBoard(app),
    );
    const gone = element("p.image-gone", { role: "status", hidden: true }, () => words.gone);
    const note = !isTouch() && !isSecureContext && element("p.image-note", {}, () => words.insecure);
    return {
        node: element("div.image-empty", {}, gone, choose, element("div.image-sources", {}, camera, paste, draw), note),
        gone,
    };
}

function buildCard(app, sources) {
    const image = element("img", { alt: "" });
    const missing = element(
        "span.image-missing",
        { hidden: true },
        icon("image"),
        element("span", {}, () => words.noPreview),
    );
    const map = mapLayer(image);
    const enlarge = element("button.image-enlarge", { type: "button", "aria-haspopup": "dialog" }, image, map.element, missing);
    const name = element("span.image-name");
    const details = element("span.image-details");
    const bar = element("progress", { max: 1, "aria-label": () => words.sendingName });
    const state = element("span", {});
    const cancel = iconButton("close", () => words.cancel, {
        onclick: () => app.images.transfers.get(app.conversation.imageId)?.cancel(),
    });
    const sending = element("div.image-sending", { hidden: true }, bar, state, cancel);
    const change = labeledButton(
        "image",
        () => words.change,
        () => openMenu(change, imageWays(app, sources)),
        { "aria-haspopup": "menu" },
    );
    const part = labeledButton(
        "crop",
        () => words.part,
        () => openShown(app, true),
    );
    const remove = labeledButton(
        "delete",
        () => words.remove,
        () => removeImage(app),
    );
    const plain = labeledButton(
        "close",
        () => words.plain,
        () => app.explained?.end(),
        { hidden: true },
    );
    const actions = element("div.image-actions", {}, part, change, remove, plain);
    enlarge.addEventListener("click", () => openShown(app, false));
    const node = element(
        "div.image-card",
        { hidden: true },
        enlarge,
        element("div.image-caption", {}, name, details),
        sending,
        actions,
    );
    app.on("map", (grid) => showMap({ node, map, plain }, grid));
    return { node, image, missing, enlarge, name, details, sending, bar, state, part };
}

/** Show a map over the image, or the plain image for null. */
function showMap({ node, map, plain }, grid) {
    map.show(grid);
    node.classList.toggle("has-map", Boolean(grid));
    keepFocus(node, () => (plain.hidden = !grid));
}

async function openShown(app, selectsPart) {
    const record = app.conversation.imageId && (await app.images.record(app.conversation.imageId));
    if (!record) return;
    const usePart = (blob, name) => takeImage(app, blob, name, { cause: "part" });
    openViewer(record, { selectsPart, usePart });
}

/** Build the panel, and let images come in from everywhere on the page. */
export function buildImagePanel(app) {
    const panel = document.getElementById("image-panel");
    const sources = buildSources(app);
    const empty = buildEmptyPanel(app, sources);
    const card = buildCard(app, sources);
    const clear = labeledButton(
        "new",
        () => words.clear,
        () => clearConversation(app),
        { hidden: true },
    );
    card.node.querySelector(".image-actions").append(clear);
    panel.append(empty.node, card.node);
    const render = () => renderImage(app, empty, card);
    app.on("image", render);
    app.on("upload", (transfer) => transfer.record.id === app.conversation.imageId && renderTransfer(card, transfer));
    for (const name of ["open", "change"])
        app.on(name, () => keepFocus(panel, () => (clear.hidden = isEmpty(app.conversation))));
    onLanguage(render);
    render();
}

async function renderImage(app, empty, card) {
    const { imageId } = app.conversation;
    const record = imageId ? await app.images.record(imageId) : null;
    if (imageId !== app.conversation.imageId) return; // another image was chosen meanwhile
    const panel = document.getElementById("image-panel");
    keepFocus(panel, () => {
        empty.node.hidden = Boolean(record);
        empty.gone.hidden = !imageId || Boolean(record);
        card.node.hidden = !record;
    });
    panel.classList.toggle("has-image", Boolean(record));
    if (!record) return;
    card.name.textContent = record.name;
    card.name.title = record.name;
    card.details.textContent = record.width ? words.size(record.width, record.height) : "";
    card.enlarge.setAttribute("aria-label", words.enlarge(record.name));
    renderTransfer(card, app.images.transfers.get(imageId));
    const isVisible = await showImage(card.image, record);
    if (imageId !== app.conversation.imageId) return;
    card.image.hidden = !isVisible;
    card.missing.hidden = isVisible;
    card.part.disabled = card.enlarge.disabled = !isVisible;
    if (!isVisible && !record.serverId && !app.images.transfers.has(imageId)) app.images.upload(record).catch(() => {}); // for its preview
    refreshTexts(card.node);
}

/** Make a change; if it hides the control with the focus, the first one that is shown gets it. */
function keepFocus(panel, change) {
    const { activeElement: active } = document;
    change();
    if (!panel.contains(active) || active.checkVisibility()) return;
    focusFirst(panel);
}

function renderTransfer(card, transfer) {
    card.sending.hidden = !transfer;
    if (!transfer) return;
    const { fraction } = transfer;
    if (fraction < 1) card.bar.value = fraction;
    else card.bar.removeAttribute("value"); // the server decodes the image
    card.state.textContent = fraction < 1 ? words.sending(formatNumber(fraction * 100)) : words.reading;
}
