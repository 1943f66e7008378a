/**
 * The file format of saved conversations.
 *
 *     {"format": "visualglm-conversation", "version": 1, "image": "data:image/png;base64,..." | null,
 *      "turns": [{"question": "...", "answer": "..."}]}
 *
 * `turns` are the complete turns of the shown branch. Optional: `title`, `image_name`, `settings` of the page, and
 * `branches`, the whole tree: [{"parent": index | null, "question", "answer", "status", "shown": true | false,
 * "seed": number | null}]. Optional in a branch: `stats` (numbers of the answer), `settings`, `model` (0 or 1),
 * `original` (of a corrected answer); and, of two compared answers, `pair` (a number), `side`, `settled`, `preferred`.
 *
 * Loaded files are untrusted input: every field is validated, and no path or URL in them is opened.
 */

import { addNode, isComplete, newConversation, shownNodes } from "../core/conversation.js";
import { addBranches, toBranches } from "./saved_branches.js";
import { SavedConversationError, isObject, isParsable, readName, readSettings, readTexts } from "./saved_checks.js";

export { SavedConversationError };

export const FORMAT = "visualglm-conversation";
export const VERSION = 1;
const IMAGE_URL = /^data:image\/[\w.+-]{1,99};base64,/;

/**
 * Return the document of a conversation, to be written as JSON.
 *
 * @param {Object} conversation
 * @param {string|null} image - data URL
 * @param {Object} settings - of the page
 */
export function toDocument(conversation, image, settings) {
    const turns = shownNodes(conversation).filter(isComplete).map(({ question, answer }) => ({ question, answer }));
    const branches = toBranches(conversation);
    const extra = { title: conversation.title, image_name: conversation.imageName, settings };
    return { format: FORMAT, version: VERSION, image, turns, ...extra, ...(branches && { branches }) };
}

/**
 * Read a saved conversation.
 *
 * @param {string} text - of the file
 * @param {{turns: number, answer: number, image_bytes: number}} limits - of the server's PageInfo
 * @param {Object} ranges - `settings` of PageInfo
 * @returns {{conversation: Object, image: Blob|null, settings: Object|null}} the conversation has no image yet
 * @throws {SavedConversationError}
 */
export function fromText(text, limits, ranges) {
    if (!isParsable(text)) throw new SavedConversationError("parts");
    const document = parse(text.replace(/^\uFEFF/, ""));
    if (!isObject(document) || document.format !== FORMAT) throw new SavedConversationError("format");
    if (document.version !== VERSION) throw new SavedConversationError("version", { version: VERSION });
    const turns = readTurns(document.turns, limits);
    const conversation = newConversation(null, readName(document.image_name));
    conversation.title = readName(document.title);
    if (document.branches === undefined) addTurns(conversation, turns);
    else addBranches(conversation, document.branches, limits.answer, ranges);
    const image = readImage(document.image, limits.image_bytes);
    return { conversation, image, settings: readSettings(document.settings, ranges) };
}

function parse(text) {
    try {
        return JSON.parse(text);
    } catch {
        throw new SavedConversationError("json");
    }
}

function readTurns(value, limits) {
    const isValid = Array.isArray(value) && value.length <= limits.turns;
    if (!isValid) throw new SavedConversationError("turns", { limit: limits.turns });
    return readTexts(value, limits.answer);
}

function addTurns(conversation, turns) {
    let parent = null;
    for (const turn of turns) parent = addNode(conversation, parent, turn.question, { answer: turn.answer, status: "done" }).id;
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
