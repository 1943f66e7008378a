/**
 * The file format of saved conversations.
 *
 *     {"format": "visualglm-conversation", "version": 1, "image": "data:image/png;base64,..." | null,
 *      "turns": [{"question": "...", "answer": "..."}]}
 *
 * `turns` are the complete turns of the shown branch. Optional: `title`, `image_name`, `settings`, and `branches`, the
 * whole tree: [{"parent": index | null, "question", "answer", "status", "shown": true | false, "seed": number | null}].
 *
 * Loaded files are untrusted input: every field is validated, and no path or URL in them is opened.
 */

import { addNode, isComplete, newConversation, shownNodes } from "../core/conversation.js";

export const FORMAT = "visualglm-conversation";
export const VERSION = 1;
const MAX_BRANCHES = 5000;
const MAX_TEXT = 1_000_000; // characters of all questions and answers
const MAX_TOKENS = 500_000; // brackets, commas and colons: parsing spends time on each before anything is validated
const STATUSES = ["done", "truncated", "stopped", "failed"];
const IMAGE_URL = /^data:image\/[\w.+-]{1,99};base64,/;

/** A file that is no saved conversation. `code` names the fault; `details` are numbers for its message. */
export class SavedConversationError extends Error {
    constructor(code, details = {}) {
        super(code);
        this.code = code;
        this.details = details;
    }
}

/**
 * Return the document of a conversation, to be written as JSON.
 *
 * @param {Object} conversation
 * @param {string|null} image - data URL
 * @param {Object} settings - of the page
 */
export function toDocument(conversation, image, settings) {
    const shown = shownNodes(conversation);
    const turns = shown.filter(isComplete).map(({ question, answer }) => ({ question, answer }));
    const document = { format: FORMAT, version: VERSION, image, turns };
    const extra = { title: conversation.title, image_name: conversation.imageName, settings };
    const nodes = treeNodes(conversation);
    const places = new Map(nodes.map(({ id }, index) => [id, index]));
    const branches = nodes.map((node) => ({
        parent: node.parent === null ? null : places.get(node.parent),
        question: node.question,
        answer: node.answer,
        status: node.status === "running" ? "stopped" : node.status,
        shown: shown.includes(node),
        seed: node.stats?.seed ?? node.seed ?? null,
    }));
    const isSmall = branches.length <= MAX_BRANCHES && textLength(branches) <= MAX_TEXT; // otherwise it could not be loaded
    return { ...document, ...extra, ...(isSmall && { branches }) };
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
 * Read a saved conversation.
 *
 * @param {string} text - of the file
 * @param {{turns: number, answer: number, image_bytes: number}} limits - of the server's PageInfo
 * @returns {{conversation: Object, image: Blob|null}} the conversation has no image yet
 * @throws {SavedConversationError}
 */
export function fromText(text, limits) {
    const tokens = text.match(/[[{,:]/g)?.length ?? 0;
    if (tokens > MAX_TOKENS) throw new SavedConversationError("parts");
    const document = parse(text.replace(/^\uFEFF/, ""));
    if (!isObject(document) || document.format !== FORMAT) throw new SavedConversationError("format");
    if (document.version !== VERSION) throw new SavedConversationError("version", { version: VERSION });
    const turns = readTurns(document.turns, limits);
    const conversation = newConversation(null, readName(document.image_name));
    conversation.title = readName(document.title);
    if (document.branches === undefined) addTurns(conversation, turns);
    else addBranches(conversation, document.branches, limits);
    return { conversation, image: readImage(document.image, limits.image_bytes) };
}

function parse(text) {
    try {
        return JSON.parse(text);
    } catch {
        throw new SavedConversationError("json");
    }
}

function isObject(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}

function readName(value) {
    return typeof value === "string" ? value.toWellFormed().slice(0, 200) : "";
}

function readTurns(value, limits) {
    const isValid = Array.isArray(value) && value.length <= limits.turns;
    if (!isValid) throw new SavedConversationError("turns", { limit: limits.turns });
    return readTexts(value, limits.answer);
}

/** Validate the questions and answers of turns or branches. */
function readTexts(items, limit) {
    const turns = items.map((item, index) => readTurn(item, index + 1, limit));
    if (textLength(turns) > MAX_TEXT) throw new SavedConversationError("text", { limit: MAX_TEXT });
    return turns;
}

function readTurn(item, number, limit) {
    const texts = ["question", "answer"].map((name) => (isObject(item) ? item[name] : null));
    const areTexts = texts.every((text) => typeof text === "string" && text.length <= limit);
    if (!areTexts) throw new SavedConversationError("turn", { number, limit });
    const [question, answer] = texts.map((text) => text.toWellFormed()); // JSON can express half a character: "\ud800"
    return { question, answer };
}

function textLength(turns) {
    return turns.reduce((sum, { question, answer }) => sum + question.length + answer.length, 0);
}

function addTurns(conversation, turns) {
    let parent = null;
    for (const turn of turns) parent = addNode(conversation, parent, turn.question, { answer: turn.answer, status: "done" }).id;
}

function addBranches(conversation, value, limits) {
    if (!Array.isArray(value) || value.length > MAX_BRANCHES) throw new SavedConversationError("branches");
    const turns = readTexts(value, limits.answer);
    if (!value.every(isBranch)) throw new SavedConversationError("branches");
    const created = Date.now() - value.length;
    const nodes = [];
    for (const [index, { parent, status, seed }] of value.entries()) {
        const details = { answer: turns[index].answer, status, seed: seed ?? undefined, created: created + index };
        nodes.push(addNode(conversation, parent === null ? null : nodes[parent].id, turns[index].question, details));
    }
    const shown = nodes.filter((_, index) => value[index].shown);
    conversation.chosen = Object.fromEntries(shown.map(({ id, parent }) => [parent ?? "start", id]));
}

function isBranch({ parent, status, shown, seed }, index) {
    const isParent = parent === null || (Number.isInteger(parent) && parent >= 0 && parent < index);
    const isSeed = seed === null || (Number.isInteger(seed) && seed >= 0);
    return isParent && isSeed && STATUSES.includes(status) && typeof shown === "boolean";
}

/** Decode `image`, which is a data URL or null. The server validates its bytes. */
function readImage(value, maxBytes) {
    if (value === null || value === undefined) return null;
    const head = typeof value === "string" ? value.match(IMAGE_URL)?.[0] : null;
    if (!head) throw new SavedConversationError("image");
    const data = value.slice(head.length);
    if (data.length > (maxBytes * 4) / 3 + 4) throw new SavedConversationError("imageSize", { limit: maxBytes });
    if (!/^[A-Za-z0-9+/]+={0,2}$/.test(data)) throw new SavedConversationError("image");
    try {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        return new Blob([bytes], { type: head.slice("data:".length, head.indexOf(";")) });
    } catch {
        throw new SavedConversationError("image");
    }
}
