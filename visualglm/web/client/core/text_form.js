/** A form in the place of a text, in which the visitor changes it. */

import { element } from "./dom.js";
import { formatNumber, texts } from "./i18n.js";

const words = texts({
    en: {
        cancel: "Cancel",
        keys: "Enter confirms, Escape cancels, Shift+Enter starts a new line.",
        tooLong: (count, limit) => `${formatNumber(count)} characters; at most ${formatNumber(limit)} are possible.`,
    },
    zh: {
        cancel: "取消",
        keys: "按 Enter 确认，Esc 取消，Shift+Enter 换行。",
        tooLong: (count, limit) => `共 ${formatNumber(count)} 个字符，最多 ${formatNumber(limit)} 个。`,
    },
});

/**
 * Create a form with a text to change.
 *
 * @param {Object} options
 * @param {string} options.text - what the field holds at first
 * @param {Function} options.label - returns the field's name
 * @param {Function} options.action - returns the label of the button that saves
 * @param {number} options.limit - most characters
 * @param {function(string)} options.onSave - called with the changed text
 * @param {function()} options.onCancel - called for Escape, and if nothing was changed
 * @returns {{element: HTMLFormElement, focus: Function}}
 */
export function textForm({ text, label, action, limit, onSave, onCancel }) {
    const field = element("textarea.text-input", { "aria-label": label, rows: 1, onkeydown: press, oninput: check });
    const save = element("button.button.primary", { type: "submit" }, action);
    const cancel = element("button.button", { type: "button", onclick: onCancel }, () => words.cancel);
    const hint = element("p.hint", { role: "status" }, () => hintText());
    const form = element("form.text-form", { onsubmit: submit }, field, element("div.text-form-row", {}, hint, cancel, save));
    field.value = text;

    /** The field's text counts in code points, as the server counts. */
    function length() {
        return [...field.value].length;
    }

    function hintText() {
        return length() > limit ? words.tooLong(length(), limit) : words.keys;
    }

    function check() {
        save.disabled = !field.value.trim() || length() > limit;
        hint.textContent = hintText();
        hint.classList.toggle("error", length() > limit);
        field.style.height = "auto";
        field.style.height = `${field.scrollHeight + 2}px`; // with both borders
    }

    function press(event) {
        if (event.isComposing) return; // an input method takes this key
        if (event.key === "Escape") {
            event.stopPropagation(); // Escape elsewhere stops the answer
            onCancel();
        } else if (event.key === "Enter" && !event.shiftKey) {
            event.preventDefault();
            form.requestSubmit(save.disabled ? undefined : save);
        }
    }

    function submit(event) {
        event.preventDefault();
        if (save.disabled) return;
        if (field.value === text) onCancel();
        else onSave(field.value);
    }

    return {
        element: form,
        focus() {
            check();
            field.focus();
            field.setSelectionRange(field.value.length, field.value.length);
        },
    };
}
