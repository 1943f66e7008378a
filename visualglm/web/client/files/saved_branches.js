/** The tree of a saved conversation: its questions and answers with their numbers, settings and comparisons. */

import { addNode, newId, shownNodes } from "../core/conversation.js";
import { SavedConversationError, isObject, isParsable, MAX_TEXT, readSettings, readTexts, textLength } from "./saved_checks.js";

const MAX_BRANCHES = 5000;
const STATUSES = ["done", "truncated", "stopped", "failed"];
const NUMBERS = ["tokens", "prompt_tokens", "first_token_s", "seconds", "tokens_per_s", "seed", "dropped_turns"];

/** Return the tree as a list, parents before their children; undefined if it is too large to be loaded again. */
export function toBranches(conversation) {
    const shown = new Set(shownNodes(conversation));
    const nodes = treeNodes(conversation);
    const places = new Map(nodes.map(({ id }, index) => [id, index]));
    const pairs = pairNumbers(nodes);
    const branches = nodes.map((node) => ({
        parent: node.parent === null ? null : places.get(node.parent),
        question: node.question,
        answer: node.answer,
        status: node.status === "running" ? "stopped" : node.status,
        shown: shown.has(node),
        seed: node.stats?.seed ?? node.seed ?? null,
        stats: node.stats ? pick(node.stats, NUMBERS) : null,
        settings: node.settings ?? null,
        model: node.model ?? 0,
        ...(node.original !== undefined && { original: node.original }),
        ...(pairs.has(node.pair) && pairDetails(node, pairs.get(node.pair))),
    }));
    const isSmall = branches.length <= MAX_BRANCHES && textLength(branches) <= MAX_TEXT;
    return isSmall && isParsable(JSON.stringify(branches)) ? branches : undefined;
}

function pairDetails({ side, settled, isPreferred }, pair) {
    return { pair, side: side ?? 0, settled: Boolean(settled), preferred: Boolean(isPreferred) };
}

function pick(object, names) {
    return Object.fromEntries(names.map((name) => [name, object[name] ?? null]));
}

/** Return a Map from the pairs of which both answers are there to their numbers. */
function pairNumbers(nodes) {
    const members = Map.groupBy(nodes, ({ pair }) => pair);
    const complete = [...members].filter(([pair, both]) => pair && both.length === 2);
    return new Map(complete.map(([pair], index) => [pair, index]));
}

/** Return the nodes that are not removed, parents before their children. */
function treeNodes(conversation) {
    const children = new Map();
    for (const node of Object.values(conversation.nodes)) {
        if (node.removed) continue;
        children.set(node.parent, [...(children.get(node.parent) ?? []), node]);
    }
    for (const siblings of children.values()) siblings.sort((a, b) => a.created - b.created);
    const found = [];
    const waiting = [...(children.get(null) ?? [])];
    while (waiting.length) {
        const node = waiting.shift();
        found.push(node);
        waiting.push(...(children.get(node.id) ?? []));
    }
    return found;
}

/**
 * Add the branches of a file to a new conversation.
 *
 * @param {Object} conversation
 * @param {*} value - of the file
 * @param {number} limit - characters of a question or an answer
 * @param {Object} ranges - `settings` of the server's PageInfo
 * @throws {SavedConversationError}
 */
export function addBranches(conversation, value, limit, ranges) {
    if (!Array.isArray(value) || value.length > MAX_BRANCHES) throw new SavedConversationError("branches");
    const turns = readTexts(value, limit);
    if (!value.every((branch, index) => isBranch(branch, index, limit)) || !arePairs(value)) {
        throw new SavedConversationError("branches");
    }
    const created = Date.now() - value.length;
    const pairs = new Map();
    const nodes = [];
    for (const [index, branch] of value.entries()) {
        const details = { ...readDetails(branch, ranges), ...readPair(branch, pairs), answer: turns[index].answer };
        const parent = branch.parent === null ? null : nodes[branch.parent].id;
        nodes.push(addNode(conversation, parent, turns[index].question, { ...details, created: created + index }));
    }
    const shown = nodes.filter((_, index) => value[index].shown);
    conversation.chosen = Object.fromEntries(shown.map(({ id, parent }) => [parent ?? "start", id]));
}

function readDetails({ status, seed, stats, settings, model, original }, ranges) {
    const numbers = stats ? { ...pick(stats, NUMBERS), finish_reason: status === "truncated" ? "length" : "stop" } : null;
    const details = { status, seed: seed ?? undefined, stats: numbers, settings: readSettings(settings, ranges), model: model ?? 0 };
    return original === undefined ? details : { ...details, original: original.toWellFormed() };
}

/** Return what a node has that is compared with another one. `pairs` is a Map from numbers to identifiers. */
function readPair({ pair, side, settled, preferred }, pairs) {
    if (pair === undefined) return {};
    if (!pairs.has(pair)) pairs.set(pair, newId());
    return { pair: pairs.get(pair), side, settled, isPreferred: preferred };
}

function isBranch({ parent, status, shown, seed, stats, model, original }, index, limit) {
    const isParent = parent === null || (Number.isInteger(parent) && parent >= 0 && parent < index);
    const isModel = model === undefined || model === 0 || model === 1;
    const isText = original === undefined || (typeof original === "string" && original.length <= limit);
    const isValid = isParent && isModel && isText && (seed === null || isCount(seed)) && areStats(stats);
    return isValid && STATUSES.includes(status) && typeof shown === "boolean";
}

function areStats(stats) {
    if (stats === null || stats === undefined) return true;
    return isObject(stats) && NUMBERS.every((name) => isNumber(stats[name] ?? null));
}

function isNumber(value) {
    return value === null || (Number.isFinite(value) && value >= 0);
}

function isCount(value) {
    return Number.isInteger(value) && value >= 0;
}

/** Whether each pair has two answers at one place, the first and the second side. */
function arePairs(branches) {
    const paired = branches.filter(({ pair }) => pair !== undefined);
    if (!paired.every(({ pair, settled, preferred }) => isCount(pair) && [settled, preferred].every(isFlag))) return false;
    return [...Map.groupBy(paired, ({ pair }) => pair).values()].every(
        (both) => both.length === 2 && both[0].parent === both[1].parent && [both[0].side, both[1].side].sort().join() === "0,1",
    );
}

function isFlag(value) {
    return typeof value === "boolean";
}
