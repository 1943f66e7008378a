/** Follow-up questions below the newest answer, one click away. */

import { askNext } from "../core/answers.js";
import { isComplete } from "../core/conversation.js";
import { element, replaceChildren } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { notAsked, suggestedQuestions } from "./suggestions.js";

const SHOWN = 3;
const words = texts({
    en: { title: "Questions to go on with" },
    zh: { title: "接着可以问" },
});

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
    let newest; // the node of the last call
    let record = null; // of the conversation's image

    async function update(last) {
        newest = last;
        const { imageId } = app.conversation;
        if (imageId && record?.id !== imageId) record = (await app.images.record(imageId)) ?? null;
        if (imageId === app.conversation.imageId && newest === last) draw(last);
    }

    function draw(last) {
        const canFollow = last && isComplete(last) && app.conversation.imageId && !app.runsIn(app.conversation);
        const questions = canFollow ? notAsked(suggestedQuestions(app.info, record), app.conversation).slice(0, SHOWN) : [];
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
