/** A question in the log, with its actions: copy, edit, delete. */

import { element, iconButton } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { textForm } from "../core/text_form.js";
import { copyButton, plainText } from "./log_parts.js";
import { askAgain, deleteRound } from "./rounds.js";

const words = texts({
    en: {
        you: "You",
        copy: "Copy the question",
        edit: "Edit the question",
        delete: "Delete this question and answer",
        field: "Question",
        ask: "Ask",
    },
    zh: {
        you: "你",
        copy: "复制问题",
        edit: "编辑问题",
        delete: "删除这一问一答",
        field: "问题",
        ask: "提问",
    },
});

/**
 * Create the view of a question.
 *
 * @param {App} app
 * @returns {{element: HTMLElement, update: function(Object[])}} `update` takes the nodes that answer the question
 */
export function questionView(app) {
    let nodes = [];
    let form = null;
    const text = plainText("div.text");
    const edit = iconButton("edit", () => words.edit, { "data-action": "edit", onclick: openForm });
    const copy = copyButton(() => words.copy, () => nodes[0].question, { "data-action": "copy-question" });
    const remove = iconButton("delete", () => words.delete, {
        "data-action": "delete",
        onclick: () => deleteRound(app, nodes),
    });
    const actions = element("div.actions", {}, copy, edit, remove);
    const article = element(
        "article.question",
        { "aria-label": () => words.you, tabindex: -1 },
        element("p.author", {}, () => words.you),
        text.element,
        actions,
    );

    function openForm() {
        form = textForm({
            text: nodes[0].question,
            label: () => words.field,
            action: () => words.ask,
            limit: app.info.limits.question,
            onSave: (question) => {
                closeForm();
                article.focus(); // the log moves the focus on to the new answer
                askAgain(app, nodes, question);
            },
            onCancel: () => {
                closeForm();
                edit.focus();
            },
        });
        toggle(true);
        article.append(form.element);
        form.focus();
    }

    function closeForm() {
        toggle(false);
        form.element.remove();
        form = null;
    }

    function toggle(isEdited) {
        article.classList.toggle("edited", isEdited);
        text.element.hidden = isEdited;
        actions.hidden = isEdited;
    }

    function update(newNodes) {
        nodes = newNodes;
        text.show(nodes[0].question);
    }

    return { element: article, update };
}
