/** A round in the log: a question with its answer, or with two answers that are compared. */

import { pairView } from "../compare/pair_view.js";
import { isComplete } from "../core/conversation.js";
import { element, iconButton } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { truthView } from "../image/scene.js";
import { answerView, authorOf } from "./answer_view.js";
import { setHidden, versionSwitch } from "./log_parts.js";
import { questionView } from "./question_view.js";
import { askAgain, comparedNode, showVersion, unsettle } from "./rounds.js";

const words = texts({
    en: { retry: "Answer again", compare: "Show both answers side by side" },
    zh: { retry: "重新回答", compare: "并排显示两个回答" },
});

/**
 * Create the view of a round.
 *
 * @param {App} app
 * @param {boolean} isPair - whether two answers are compared
 * @returns {{element: HTMLElement, update: Function, updateNode: Function, focus: Function}} `update` takes {version,
 *     versions}; `updateNode` takes a node of the round and draws only its answer; `focus` takes the name of an action
 */
export function roundView(app, isPair) {
    let round = null;
    const question = questionView(app);
    const again = () => askAgain(app, round.version.nodes);
    const retry = iconButton("retry", () => words.retry, { "data-action": "retry", onclick: again });
    const compare = iconButton("compare", () => words.compare, {
        "data-action": "compare",
        onclick: () => unsettle(app, round.version.nodes[0]),
    });
    const versions = versionSwitch((index) => showVersion(app, round.versions[index]));
    const tools = [retry, compare, versions.element];
    const answers = isPair ? pairView(app, { tools, onRetry: again }) : singleView(app, { tools, onRetry: again });
    const truth = truthView(app);
    const node = element("div.round", {}, question.element, answers.element, truth.element);

    function update(newRound) {
        round = newRound;
        const { nodes } = round.version;
        question.update(nodes);
        versions.update(round.versions.indexOf(round.version), round.versions.length);
        setHidden(retry, nodes.some(hasEndedEarly)); // these answers have a button of their own
        setHidden(compare, isPair || !comparedNode(app.conversation, nodes[0]));
        answers.update(nodes);
        truth.update(nodes[0]);
    }

    function updateNode(changed) {
        const { nodes } = round.version;
        const index = nodes.findIndex(({ id }) => id === changed.id);
        if (index < 0) return;
        nodes[index] = changed;
        setHidden(retry, nodes.some(hasEndedEarly));
        answers.update(nodes);
        truth.update(nodes[0]);
    }

    /** Focus an action of the round, or its answer if there is no such action now. */
    function focus(action) {
        const wanted = action && node.querySelector(`[data-action="${action}"]`);
        const target = wanted?.checkVisibility() ? wanted : node.querySelector("article.answer");
        target.focus({ preventScroll: true });
    }

    return { element: node, update, updateNode, focus };
}

function hasEndedEarly({ status }) {
    return status === "failed" || status === "stopped";
}

/** Create the view of the only answer of a round. */
function singleView(app, options) {
    const answer = answerView(app, options);
    return { element: answer.element, update: ([node]) => answer.update(node) };
}

/** Return what a screen reader shall say when an answer has ended. */
export function announcement(app, node) {
    const text = node.answer && isComplete(node) ? node.answer : node.error || node.answer;
    return `${authorOf(app, node)}: ${text}`;
}
