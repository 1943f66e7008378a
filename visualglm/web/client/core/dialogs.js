/** Dialogs that ask, and short messages (toasts). */

import { element, icon, iconButton, replaceChildren } from "./dom.js";
import { texts } from "./i18n.js";

const TOAST_MS = 6000;
const cameFrom = new WeakMap(); // message -> what had the focus before it
const words = texts({
    en: { close: "Close", cancel: "Cancel", undo: "Undo" },
    zh: { close: "关闭", cancel: "取消", undo: "撤销" },
});

/**
 * Open a modal dialog with any content. Escape and the close button close it; focus returns to where it was.
 *
 * @param {Object} options
 * @param {string|Function} options.title
 * @param {Array} options.content - children, as `element` takes them
 * @param {string} [options.className] - further class of the dialog
 * @param {Function} [options.onClose] - called after it was closed
 * @returns {HTMLDialogElement} call its `close(value)`
 */
export function openDialog({ title, content, className = "", onClose = () => {} }) {
    const dialog = element("dialog.dialog", { "aria-labelledby": "dialog-title" });
    if (className) dialog.classList.add(className);
    const close = iconButton("close", () => words.close, { onclick: () => dialog.close("") });
    const heading = element("h2", { id: "dialog-title", tabindex: -1 }, title);
    dialog.append(
        element("header", {}, heading, close),
        element("div.dialog-body", {}, content),
    );
    const area = document.activeElement?.closest("aside, header, section[aria-label]") ?? document.getElementById("visualglm");
    dialog.addEventListener("close", () => {
        dialog.remove();
        if (document.activeElement === document.body) focusFirst(area); // what had the focus is gone
        onClose(dialog.returnValue);
    });
    dialog.addEventListener("click", (event) => {
        if (event.target === dialog) dialog.close(""); // the backdrop
    });
    document.getElementById("visualglm").append(dialog);
    dialog.showModal();
    if (!dialog.querySelector("[autofocus]")) heading.focus(); // not the button that closes it
    return dialog;
}

/** Focus the first button of an area that is shown. */
export function focusFirst(area) {
    [...area.querySelectorAll("button")].find((button) => button.checkVisibility())?.focus({ preventScroll: true });
}

/**
 * Ask the visitor; Escape chooses "".
 *
 * @param {Object} options
 * @param {string} options.title
 * @param {string} options.text - what happens, and what is lost
 * @param {Array<{value: string, label: string, kind?: "primary"|"danger"}>} options.actions - the first gets the focus
 * @param {string} [options.cancel] - label of the button that chooses ""
 * @returns {Promise<string>} the value of the chosen action
 */
export function askDialog({ title, text, actions, cancel: cancelLabel = words.cancel }) {
    return new Promise((resolve) => {
        const buttons = actions.map(({ value, label, kind }, index) =>
            element(
                `button.button${kind ? `.${kind}` : ""}`,
                { type: "button", autofocus: index === 0, onclick: () => dialog.close(value) },
                label,
            ),
        );
        const cancel = element("button.button", { type: "button", onclick: () => dialog.close("") }, cancelLabel);
        const content = [element("p", {}, text), element("div.dialog-actions", {}, cancel, buttons)];
        const dialog = openDialog({ title, content, onClose: resolve });
    });
}

/** Ask for one line of text; the promise is fulfilled with it, or with null if the visitor cancels. */
export function promptDialog({ title, label, value = "", action }) {
    return new Promise((resolve) => {
        const input = element("input.text-input", { type: "text", value, maxlength: 200, "aria-label": label });
        const form = element("form", { method: "dialog" }, input);
        const save = element("button.button.primary", { type: "submit" }, action);
        const cancel = element("button.button", { type: "button", onclick: () => dialog.close("") }, words.cancel);
        form.append(element("div.dialog-actions", {}, cancel, save));
        form.addEventListener("submit", (event) => {
            event.preventDefault();
            dialog.close("saved");
        });
        const dialog = openDialog({
            title,
            content: [form],
            onClose: (result) => resolve(result === "saved" ? input.value.trim() : null),
        });
        input.select();
    });
}

/**
 * Show a short message. It goes away by itself, unless it is an error; not while the pointer or the focus is on it.
 *
 * @param {string} text
 * @param {Object} [options]
 * @param {"info"|"error"} [options.kind]
 * @param {{label: string, run: Function, isUndo?: boolean}} [options.action] - a button
 * @param {Function} [options.onClose] - called when the message goes away without the action
 * @returns {Function} call it to remove the message
 */
export function toast(text, { kind = "info", action = null, onClose = () => {} } = {}) {
    const remove = () => {
        if (!node.isConnected) return;
        takeAway(node);
        onClose();
    };
    const act = () => {
        takeAway(node);
        action.run();
    };
    const button =
        action &&
        element("button.button", { type: "button", "data-undo": action.isUndo && "", onclick: act }, action.label);
    const close = iconButton("close", () => words.close, { onclick: remove });
    const node = element(`div.toast.${kind}`, { role: kind === "error" ? "alert" : "status" }, element("p", {}, text), button, close);
    node.addEventListener("focusin", ({ relatedTarget }) => {
        if (relatedTarget && !node.contains(relatedTarget)) cameFrom.set(node, relatedTarget);
    });
    makeRoom(text);
    document.getElementById("toasts").append(node);
    const expire = () => (node.matches(":hover, :focus-within") ? setTimeout(expire, TOAST_MS) : remove());
    if (kind !== "error") setTimeout(expire, action ? 2 * TOAST_MS : TOAST_MS);
    return remove;
}

/** Show a short message with a button that undoes what it tells. */
export function undoToast(text, undo, onClose) {
    return toast(text, { action: { label: words.undo, run: undo, isUndo: true }, onClose });
}

/** Undo what the newest message with such a button tells. */
export function undoNewest() {
    [...document.querySelectorAll("#toasts [data-undo]")].at(-1)?.click();
}

/** Remove all short messages, and with them what they could undo. */
export function removeToasts() {
    document.getElementById("toasts").replaceChildren();
}

/** Remove the messages that a new one makes needless: of those without an action, the plain ones and the same error. */
function makeRoom(text) {
    for (const node of document.querySelectorAll("#toasts .toast:not(:has(.button))")) {
        if (node.matches(".info") || node.firstChild.textContent === text) takeAway(node);
    }
}

/** Remove a message; a focus on it returns to where it came from. */
function takeAway(node) {
    const isFocused = node.contains(document.activeElement);
    node.remove();
    if (!isFocused) return;
    cameFrom.get(node)?.focus();
    if (document.activeElement === document.body) document.getElementById("question").focus();
}

/** Open a menu of actions below a button; Escape, a click elsewhere or a choice closes it. */
export function openMenu(button, items) {
    const menu = element("div.menu", { role: "menu", popover: "auto" });
    replaceChildren(
        menu,
        items.map(({ label, iconName, run, kind }) =>
            element(
                `button.menu-item${kind ? `.${kind}` : ""}`,
                {
                    type: "button",
                    role: "menuitem",
                    onclick: () => {
                        menu.hidePopover();
                        button.focus(); // a dialog that opens now returns the focus to it
                        run();
                    },
                },
                iconName && icon(iconName),
                label,
            ),
        ),
    );
    menu.addEventListener("keydown", (event) => {
        moveFocus(event, [...menu.children]);
        if (event.key !== "Escape") return;
        event.preventDefault();
        event.stopPropagation(); // it does not stop an answer
        menu.hidePopover();
        button.focus();
    });
    menu.addEventListener("toggle", (event) => {
        if (event.newState !== "closed") return;
        menu.remove();
        button.setAttribute("aria-expanded", "false");
        if (document.activeElement === document.body) button.focus();
    });
    (button.closest("section, aside, header") ?? document.getElementById("visualglm")).append(menu); // in a landmark
    menu.showPopover();
    button.setAttribute("aria-expanded", "true");
    placeBelow(menu, button);
    menu.firstElementChild?.focus();
}

function moveFocus(event, items) {
    const index = items.indexOf(document.activeElement);
    const next = { ArrowDown: (index + 1) % items.length, ArrowUp: index - 1, Home: 0, End: -1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    items.at(next).focus();
}

function placeBelow(menu, button) {
    const anchor = button.getBoundingClientRect();
    const { width, height } = menu.getBoundingClientRect();
    const below = anchor.bottom + height + 8 <= window.innerHeight;
    menu.style.left = `${Math.max(8, Math.min(anchor.left, window.innerWidth - width - 8))}px`;
    menu.style.top = `${Math.max(8, below ? anchor.bottom + 4 : anchor.top - height - 4)}px`;
}
