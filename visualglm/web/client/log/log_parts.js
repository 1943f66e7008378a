/** Parts of the log: texts as they were written, the copy button, and the switch between versions. */

import { copyText } from "../core/clipboard.js";
import { toast } from "../core/dialogs.js";
import { element, icon, iconButton, setAttribute } from "../core/dom.js";
import { formatNumber, texts } from "../core/i18n.js";
import { languageOf } from "../core/scripts.js";

const COPIED_MS = 2000;
const words = texts({
    en: {
        copied: "Copied",
        notCopied: "The browser does not allow copying. Select the text and copy it with the keyboard.",
        versions: (index, count) => `Version ${index} of ${count}`,
        previous: "Previous version",
        next: "Next version",
    },
    zh: {
        copied: "已复制",
        notCopied: "浏览器不允许复制。请选中文字后用键盘复制。",
        versions: (index, count) => `第 ${index} 版，共 ${count} 版`,
        previous: "上一版",
        next: "下一版",
    },
});

/** Create an element that shows a text exactly as it was written; `show(text)` changes it, at its end if it only grew. */
export function plainText(name) {
    let shown = "";
    const content = document.createTextNode("");
    const node = element(name, { dir: "auto" }, content);
    const show = (text) => {
        if (text === shown) return; // differences that were marked stay
        if (content.parentNode === node && text.startsWith(shown)) content.appendData(text.slice(shown.length));
        else {
            content.data = text;
            node.replaceChildren(content);
        }
        shown = text;
        setAttribute(node, "lang", languageOf(text));
    };
    return { element: node, show };
}

/** Hide or show an element. Nothing is written if that changes nothing, so that a redraw of 1000 rounds costs nothing. */
export function setHidden(node, isHidden) {
    if (node.hidden !== isHidden) node.hidden = isHidden;
}

/** Create a button that copies what `text()` returns, and says so for a moment. */
export function copyButton(label, text, attributes = {}) {
    let timer = null;
    const currentLabel = () => (timer === null ? label() : words.copied);
    const button = iconButton("copy", currentLabel, { ...attributes, onclick: copy });
    const draw = (name) => {
        button.replaceChildren(icon(name));
        for (const key of ["aria-label", "title"]) setAttribute(button, key, currentLabel);
    };
    async function copy() {
        if (!(await copyText(text()))) {
            toast(words.notCopied, { kind: "error" });
            return;
        }
        clearTimeout(timer);
        timer = setTimeout(() => {
            timer = null;
            draw("copy");
        }, COPIED_MS);
        draw("check");
    }
    return button;
}

/**
 * Create the switch between versions: "‹ 2/3 ›". The keys Left and Right switch, too, while it has the focus.
 *
 * @param {function(number)} onSwitch - called with the index of the wanted version
 * @returns {{element: HTMLElement, update: function(number, number)}} `update` takes the shown index and the count
 */
export function versionSwitch(onSwitch) {
    let [index, count] = [0, 1];
    const move = (step) => index + step >= 0 && index + step < count && onSwitch(index + step);
    const button = (name, step) =>
        iconButton(name, () => words[name], { "data-action": name, onclick: () => move(step) });
    const [previous, next] = [button("previous", -1), button("next", 1)];
    const numbers = element("span.numbers", { "aria-hidden": "true" });
    const group = element("div.versions", { role: "group", onkeydown: press, hidden: true }, previous, numbers, next);

    function press(event) {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        move(step);
    }

    function update(newIndex, newCount) {
        if (index === newIndex && count === newCount) return;
        [index, count] = [newIndex, newCount];
        group.hidden = count < 2;
        numbers.textContent = `${formatNumber(index + 1)}/${formatNumber(count)}`;
        setAttribute(group, "aria-label", () => words.versions(index + 1, count));
        // `disabled` would take the focus away.
        setAttribute(previous, "aria-disabled", index === 0 ? "true" : null);
        setAttribute(next, "aria-disabled", index === count - 1 ? "true" : null);
    }

    return { element: group, update };
}
