/** Keyboard shortcuts, and the sheet that lists them. Parts add theirs by `addShortcut`. */

import { openDialog, undoNewest } from "../core/dialogs.js";
import { element, iconButton } from "../core/dom.js";
import { texts } from "../core/i18n.js";

const words = texts({
    en: {
        title: "Keyboard shortcuts",
        help: "Show the keyboard shortcuts",
        stop: "Stop the answer",
        focus: "Go to the question field",
        send: "Send the question",
        line: "Start a new line in the question",
        undo: "Undo the last deletion",
        single: "Use keys without Alt or Control outside text fields",
    },
    zh: {
        title: "键盘快捷键",
        help: "显示键盘快捷键",
        stop: "停止回答",
        focus: "跳到提问框",
        send: "发送问题",
        line: "在问题里换行",
        undo: "撤销上一次删除",
        single: "在文本框之外可使用不带 Alt 或 Ctrl 的按键",
    },
});
const shortcuts = [];
const SINGLE_KEYS = "single-keys"; // whether keys without a modifier are shortcuts

/**
 * Add a shortcut.
 *
 * @param {Object} shortcut
 * @param {string} shortcut.keys - as in "Alt+N", "?" or "Escape"; "" lists a key that another part handles
 * @param {string} [shortcut.shown] - the keys as the sheet shows them
 * @param {Function} shortcut.label - returns what it does, in the language of the page
 * @param {Function} [shortcut.run]
 * @param {boolean} [shortcut.isOutside] - whether text fields keep the keys to themselves
 */
export function addShortcut(shortcut) {
    shortcuts.push({ shown: shortcut.keys, run: () => {}, ...shortcut });
}

/** Build the shortcuts of the whole page, and the button that lists all of them. */
export function buildShortcuts(app) {
    let singleKeys = true;
    app.store.get("values", SINGLE_KEYS).then((stored) => {
        singleKeys = stored?.value ?? true;
    });
    const setSingleKeys = (value) => {
        singleKeys = value;
        app.store.put("values", { id: SINGLE_KEYS, value });
    };
    const showSheet = () => openSheet(singleKeys, setSingleKeys);
    addShortcut({ keys: "", shown: "Enter", label: () => words.send });
    addShortcut({ keys: "", shown: "Shift+Enter", label: () => words.line });
    addShortcut({ keys: "Escape", label: () => words.stop, run: () => app.stop() });
    addShortcut({ keys: "Control+z", shown: "Control+Z", label: () => words.undo, run: undoNewest, isOutside: true });
    addShortcut({ keys: "/", label: () => words.focus, run: () => document.getElementById("question").focus() });
    addShortcut({ keys: "?", label: () => words.help, run: showSheet });
    const button = iconButton("help", () => words.title, { onclick: showSheet, style: { order: 7 } });
    button.id = "help-button";
    document.getElementById("tools").append(button);
    document.addEventListener("keydown", (event) => {
        if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
        const found = shortcuts.find(({ keys }) => keys && keys === keyName(event));
        if (!found || (isSingle(found.keys) && !singleKeys)) return;
        if ((isSingle(found.keys) || found.isOutside) && isTextField(event.target)) return;
        event.preventDefault();
        found.run();
    });
}

/** Return the name of a pressed key, as "Alt+N". By its position, since Alt types other characters on a Mac. */
function keyName(event) {
    const letter = event.altKey && /^Key[A-Z]$/.test(event.code) ? event.code.slice(3) : event.key;
    return `${event.ctrlKey || event.metaKey ? "Control+" : ""}${event.altKey ? "Alt+" : ""}${letter}`;
}

function isSingle(keys) {
    return keys.length === 1;
}

function isTextField(node) {
    return node.matches?.("textarea, input:not([type=range]):not([type=radio]):not([type=checkbox]), select, [contenteditable]");
}

function openSheet(singleKeys, setSingleKeys) {
    const rows = shortcuts.map(({ shown, label }) =>
        element("tr", {}, element("th", { scope: "row" }, keyCaps(shown)), element("td", {}, label())),
    );
    const box = element("input", { type: "checkbox", onchange: () => setSingleKeys(box.checked) });
    box.checked = singleKeys;
    const content = [
        element("table.shortcuts", {}, element("tbody", {}, rows)),
        element("label.single-keys", {}, box, words.single),
    ];
    openDialog({ title: words.title, content });
}

function keyCaps(shown) {
    return shown.split("+").map((key, index) => [index ? " + " : "", element("kbd", {}, key)]);
}
