/** Two answers to one question side by side, their differences marked, and the choice between them. */

import { chooseBranch, isComplete } from "../core/conversation.js";
import { element, replaceChildren } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { answerView } from "../log/answer_view.js";
import { canPrefer, changeNode, settle } from "../log/rounds.js";
import { settingsText } from "../settings/setting_texts.js";
import { markDifferences } from "./diff_view.js";
import { vote } from "./votes.js";

const BADGES = ["A", "B"];
const words = texts({
    en: {
        better: (badge) => `${badge} is better`,
        goOn: (badge) => `Go on with ${badge}`,
        preferred: "You found this one better.",
        same: "Both answers are the same. ",
        continues: (badge) => `The conversation goes on from ${badge}.`,
    },
    zh: {
        better: (badge) => `${badge} 更好`,
        goOn: (badge) => `以 ${badge} 继续`,
        preferred: "你认为这个更好。",
        same: "两个回答相同。",
        continues: (badge) => `对话以 ${badge} 继续。`,
    },
});

/**
 * Create the view of two compared answers.
 *
 * @param {App} app
 * @param {Object} options
 * @param {Node[]} options.tools - buttons for both
 * @param {function()} options.onRetry - called by "Try again"
 */
export function pairView(app, { tools, onRetry }) {
    let nodes = [];
    let compared = "";
    const sides = BADGES.map((badge, index) => sideView(app, { badge, onRetry, choose: () => choose(index) }));
    const note = element("p.pair-note", { role: "status" });
    const columns = element("div.columns", {}, sides.map(({ element: column }) => column));
    const pair = element("div.pair", {}, columns, element("footer", {}, element("div.actions", {}, tools), note));

    async function choose(index) {
        const [preferred, other] = [nodes[index], nodes[1 - index]];
        if (!app.info.features.votes) {
            settle(app, nodes, preferred);
        } else if (await vote(app, preferred, preferred.answer, other.answer)) {
            chooseBranch(app.conversation, preferred);
            changeNode(app, preferred, { isPreferred: true });
        }
    }

    function update(newNodes) {
        nodes = newNodes;
        nodes.forEach((node, index) => sides[index].update(node, nodes));
        const isEnded = nodes.every(isComplete);
        tools.forEach((tool) => tool.classList.toggle("waiting", !isEnded));
        mark(isEnded);
        const chosen = app.conversation.chosen[nodes[0].parent ?? "start"];
        const shown = Math.max(0, nodes.findIndex(({ id }) => id === chosen));
        const isSame = isEnded && nodes[0].answer === nodes[1].answer;
        replaceChildren(note, isSame && (() => words.same), isEnded && (() => words.continues(BADGES[shown])));
    }

    function mark(isEnded) {
        const answers = nodes.map(({ answer }) => answer);
        const state = JSON.stringify(answers);
        if (!isEnded || compared === state) return;
        compared = state;
        markDifferences(sides.map(({ text }) => text), answers);
    }

    return { element: pair, update };
}

/** Create the view of one of both answers, with its settings and the button that chooses it. */
function sideView(app, { badge, onRetry, choose }) {
    const label = () => (app.info.features.votes ? words.better(badge) : words.goOn(badge));
    const button = element("button.button", { type: "button", "data-action": `choose-${badge}`, onclick: choose }, label);
    const preferred = element("p.preferred", {}, () => words.preferred);
    const settings = element("p.side-settings");
    const answer = answerView(app, { tools: [], badge, onRetry });
    answer.element.querySelector(".author").after(settings);
    answer.element.append(element("div.choice", {}, button, preferred));

    function update(node, nodes) {
        answer.update(node);
        const [a, b] = nodes;
        replaceChildren(settings, () => settingsText(node.settings, a.settings, b.settings));
        settings.hidden = !settings.textContent;
        const isVoted = nodes.some(({ isPreferred }) => isPreferred);
        preferred.hidden = !node.isPreferred;
        button.hidden = app.info.features.votes ? isVoted || !canPrefer(nodes) : !isComplete(node);
        answer.element.classList.toggle("chosen", Boolean(node.isPreferred));
    }

    return { element: answer.element, text: answer.text, update };
}
