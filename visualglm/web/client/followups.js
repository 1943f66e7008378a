/** Follow-up questions below the newest answer, one click away. */

import { askNext } from "./answers.js";
import { isComplete } from "./conversation.js";
import { element, replaceChildren } from "./dom.js";
import { language, texts } from "./i18n.js";

const SHOWN = 3;
const words = texts({
    en: { title: "Questions to go on with" },
    zh: { title: "接着可以问" },
});

/** Return the suggested questions in the page's language that were not asked in a conversation. */
export function suggestions(info, conversation) {
    const asked = new Set(Object.values(conversation.nodes).filter(({ removed }) => !removed).map(({ question }) => question.trim()));
    return (info.suggestions?.[language()] ?? []).filter((question) => !asked.has(question)).slice(0, SHOWN);
}

/**
 * Create the follow-up questions.
 *
 * @param {App} app
 * @returns {{element: HTMLElement, update: function(Object|undefined)}} `update` takes the last shown node
 */
export function followUps(app) {
    const buttons = element("div.follow-up-buttons");
    const node = element("section.follow-ups", { "aria-label": () => words.title, hidden: true }, buttons);
    let shown = "";

    function update(last) {
        const canFollow = last && isComplete(last) && app.conversation.imageId && !app.runsIn(app.conversation);
        const questions = canFollow ? suggestions(app.info, app.conversation) : [];
        if (shown === JSON.stringify(questions)) return;
        shown = JSON.stringify(questions);
        node.hidden = !questions.length;
        replaceChildren(
            buttons,
            questions.map((question) =>
                element("button.button.follow-up", { type: "button", onclick: () => askNext(app, question) }, question),
            ),
        );
    }

    return { element: node, update };
}
