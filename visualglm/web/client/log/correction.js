/** Corrections: the visitor changes the text of an answer; it is sent as the better one and shown with a mark. */

import { markedText } from "../compare/diff_view.js";
import { vote } from "../compare/votes.js";
import { element, replaceChildren } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { textForm } from "../core/text_form.js";
import { changeNode } from "./rounds.js";

const words = texts({
    en: { corrected: "Corrected by you", field: "Corrected answer", save: "Save the correction" },
    zh: { corrected: "已由你修改", field: "修改后的回答", save: "保存修改" },
});

/**
 * Create what shows and changes the correction of an answer.
 *
 * @param {App} app
 * @param {HTMLElement} text - the answer's text, in the place of which the form stands
 * @returns {{element: HTMLElement, open: Function, isOpen: function(): boolean, update: function(Object)}}
 */
export function correctionView(app, text) {
    let node = null;
    let form = null;
    const mark = element("details.correction", { hidden: true });
    const holder = element("div", {}, mark);

    function open() {
        if (form) return;
        const opener = document.activeElement;
        form = textForm({
            text: node.answer,
            label: () => words.field,
            action: () => words.save,
            limit: app.info.limits.answer,
            onSave: save,
            onCancel: () => {
                close();
                opener?.focus();
            },
        });
        text.hidden = true;
        holder.prepend(form.element);
        form.focus();
    }

    function close() {
        form?.element.remove();
        form = null;
        text.hidden = false;
    }

    async function save(corrected) {
        const original = node.original ?? node.answer;
        if (!(await vote(app, node, corrected, original))) return;
        close();
        changeNode(app, node, { answer: corrected, original });
        holder.closest("article").focus({ preventScroll: true });
    }

    function update(newNode) {
        node = newNode;
        mark.hidden = node.original === undefined;
        if (mark.hidden) return;
        const parts = markedText(node.original, node.answer);
        replaceChildren(mark, element("summary", {}, () => words.corrected), parts);
    }

    return { element: holder, open, isOpen: () => form !== null, update };
}
