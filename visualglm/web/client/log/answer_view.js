/** An answer in the log: its text, its phase while it runs, then its numbers, notes and actions. */

import { isComplete } from "../core/conversation.js";
import { element, iconButton, replaceChildren } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { explanationView } from "../explain/explanation.js";
import { noteTexts, phaseText, statisticsTexts } from "./answer_texts.js";
import { correctionView } from "./correction.js";
import { copyButton, plainText, setHidden } from "./log_parts.js";

const words = texts({
    en: { copy: "Copy the answer", correct: "Correct this answer", tryAgain: "Try again", answering: "Answering" },
    zh: { copy: "复制回答", correct: "修改这个回答", tryAgain: "重试", answering: "正在回答" },
});

/** Return the name of the model that answers a node. */
export function authorOf(app, node) {
    return app.info.models[node.model] ?? app.info.model.name;
}

/**
 * Create the view of an answer.
 *
 * @param {App} app
 * @param {Object} options
 * @param {Node[]} options.tools - further buttons beside "copy"
 * @param {string} [options.badge] - "A" or "B" in a comparison
 * @param {function()} options.onRetry - called by "Try again"
 * @returns {{element: HTMLElement, text: HTMLElement, update: function(Object)}} `update` takes the node and draws what changed
 */
export function answerView(app, { tools, badge = "", onRetry }) {
    let node = null;
    let drawn = ""; // the state that is shown, apart from text and phase
    const text = plainText("div.text");
    const author = element("span", {});
    const dots = element("span.dots", { "aria-hidden": "true" }, element("i"), element("i"), element("i"));
    const phase = element("span.phase-words");
    const running = element("p.phase", { hidden: true }, dots, phase);
    const notes = element("div.notes", { hidden: true });
    const correction = correctionView(app, text.element);
    const explanation = explanationView(app, text.element);
    const copy = copyButton(() => words.copy, () => node.answer, { "data-action": "copy" });
    const correct = iconButton("edit", () => words.correct, { "data-action": "correct", onclick: correction.open });
    const statistics = element("p.statistics");
    const actions = element("div.actions", {}, copy, explanation.button, correct, tools);
    const footer = element("footer", {}, actions, statistics);
    const article = element(
        "article.answer",
        { tabindex: -1 },
        element("p.author", {}, badge && element("span.badge", {}, badge), author),
        text.element,
        explanation.element,
        running,
        notes,
        correction.element,
        footer,
    );

    function update(newNode) {
        node = newNode;
        drawText();
        const isRunning = node.status === "running";
        if (isRunning) drawPhase();
        const state = JSON.stringify([node.id, node.status, node.error, node.original, Boolean(node.answer)]);
        if (state === drawn) return;
        drawn = state;
        const name = authorOf(app, node);
        author.textContent = name;
        article.setAttribute("aria-label", badge ? `${badge}, ${name}` : name);
        article.setAttribute("aria-busy", String(isRunning));
        article.dataset.status = node.status;
        running.hidden = !isRunning;
        footer.hidden = isRunning;
        copy.hidden = !node.answer;
        correct.hidden = !app.info.features.votes || !isComplete(node) || Boolean(badge);
        explanation.update(node);
        drawNotes();
        drawStatistics();
        statistics.hidden = !node.stats;
        correction.update(node);
    }

    function drawText() {
        text.show(node.answer);
        setHidden(text.element, !node.answer || correction.isOpen());
    }

    function drawPhase() {
        const isUploading = app.images.uploads.has(app.conversation.imageId);
        const isUnchanged = phase.dataset.phase === JSON.stringify(node.phase) && node.phase?.phase === "text";
        if (isUnchanged) return;
        phase.dataset.phase = JSON.stringify(node.phase);
        replaceChildren(phase, () => phaseText(node, isUploading));
    }

    function drawStatistics() {
        const count = statisticsTexts(node).length;
        const parts = Array.from({ length: count }, (_, index) => element("span", {}, () => statisticsTexts(node)[index]));
        // A no-break space, so that no line starts with a dot.
        replaceChildren(statistics, parts.flatMap((part, index) => (index ? ["\u00a0· ", part] : [part])));
    }

    function drawNotes() {
        const found = node.status === "running" ? [] : noteTexts(node);
        notes.hidden = !found.length;
        const list = found.map(({ kind }, index) => element(`p.note.${kind}`, {}, () => noteTexts(node)[index].text));
        const isFailed = node.status === "failed" || node.status === "stopped";
        const again = element("button.button", { type: "button", "data-action": "again", onclick: onRetry }, () => words.tryAgain);
        replaceChildren(notes, list, isFailed && again);
    }

    return { element: article, text: text.element, update };
}
