/** What can be done with a round, which is a question with its answer: retry, edit, delete, show another version. */

import { ask, askPair } from "../core/answers.js";
import { branches, chooseBranch, isComplete, removeNode, restoreNode } from "../core/conversation.js";
import { undoToast } from "../core/dialogs.js";
import { texts } from "../core/i18n.js";

const words = texts({
    en: { deleted: "The question and its answer are deleted, with what followed." },
    zh: { deleted: "已删除这一问一答及其后的内容。" },
});

/**
 * Return the versions at one place of a conversation, each with its nodes: one, or two that are compared.
 *
 * @param {Object[]} choices - the branches at the place
 * @returns {Array<{key: string, nodes: Object[]}>}
 */
export function versionsOf(choices) {
    const versions = new Map();
    for (const node of choices) {
        const key = node.pair && !node.settled ? node.pair : node.id;
        if (!versions.has(key)) versions.set(key, []);
        versions.get(key).push(node);
    }
    return [...versions].map(([key, nodes]) => ({ key, nodes: nodes.sort((a, b) => (a.side ?? 0) - (b.side ?? 0)) }));
}

/**
 * Ask the question of a round again, or a changed one. The former round stays as another version.
 *
 * Where a fixed seed has given an answer to the same question already, this one gets another seed.
 */
export function askAgain(app, nodes, question = nodes[0].question) {
    const [{ parent, model }] = nodes;
    const seed = randomSeed(); // the same for both sides, which are compared
    const sides = nodes.length > 1 ? nodes : [{ model, settings: { ...app.settings } }];
    const varied = sides.map((side) => {
        const repeats = findRepetition(app.conversation, parent, question, side);
        const settings = repeats === "seed" ? { ...side.settings, seed } : side.settings;
        return { model: side.model, settings, details: { repeats } };
    });
    if (nodes.length > 1) return askPair(app, question, parent, varied);
    return ask(app, question, { parent, ...varied[0] });
}

/**
 * Return why an answer would be the same as an earlier one: "seed" (it is fixed), "greedy" (temperature 0), "" if not.
 *
 * @param {Object} conversation
 * @param {string|null} parent - id of the node that precedes the question
 * @param {string} question
 * @param {{model: number, settings: Object}} side
 */
function findRepetition(conversation, parent, question, { model, settings }) {
    const isGreedy = settings.temperature === 0;
    const names = Object.keys(settings).filter((name) => name !== "seed" || !isGreedy);
    const isSame = (node) => names.every((name) => (node.settings?.[name] ?? null) === (settings[name] ?? null));
    const former = branches(conversation, parent).filter((node) => node.question === question && node.model === model);
    if (!former.some((node) => isComplete(node) && isSame(node))) return "";
    if (isGreedy) return "greedy";
    return settings.seed === null || settings.seed === undefined ? "" : "seed";
}

function randomSeed() {
    return crypto.getRandomValues(new Uint32Array(1))[0];
}

/** Show another version of a round. */
export function showVersion(app, { nodes }) {
    chooseBranch(app.conversation, nodes.find(({ isPreferred }) => isPreferred) ?? nodes[0]);
    app.emit("change");
    app.save();
}

/** Delete a round with everything that followed, and offer to undo that. */
export function deleteRound(app, nodes) {
    const { conversation } = app;
    const [shown] = nodes.filter(({ id }) => conversation.chosen[nodes[0].parent ?? "start"] === id);
    for (const node of nodes) {
        app.running.get(node.id)?.abort();
        removeNode(conversation, node);
    }
    const restore = () => {
        for (const node of nodes) restoreNode(conversation, node);
        chooseBranch(conversation, shown ?? nodes[0]);
        if (conversation === app.conversation) app.emit("change");
        app.save(conversation);
    };
    app.emit("change");
    app.save();
    undoToast(words.deleted, restore);
}

/** Change properties of a node, draw it again and store it. */
export function changeNode(app, node, changes) {
    Object.assign(node, changes, { updated: Date.now() });
    app.conversation.updated = node.updated;
    app.emit("change");
    app.save();
}

/** Show one of two compared answers, from which the conversation goes on. The other one stays as another version. */
export function settle(app, nodes, preferred) {
    for (const node of nodes) Object.assign(node, { settled: true, updated: Date.now() });
    chooseBranch(app.conversation, preferred);
    app.emit("change");
    app.save();
}

/** Return the answer that was compared with this one, undefined if there is none. */
export function comparedNode(conversation, node) {
    if (!node.pair) return undefined;
    return Object.values(conversation.nodes).find(
        ({ id, pair, removed }) => pair === node.pair && id !== node.id && !removed,
    );
}

/** Show two compared answers side by side again. */
export function unsettle(app, node) {
    for (const each of [node, comparedNode(app.conversation, node)]) {
        Object.assign(each, { settled: false, updated: Date.now() });
    }
    app.emit("change");
    app.save();
}

/** Whether one of two answers can be called better: both are complete, and they differ. */
export function canPrefer(nodes) {
    return nodes.every(isComplete) && nodes[0].answer !== nodes[1].answer;
}
