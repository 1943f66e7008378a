/** Checks of what a saved conversation holds: loaded files are untrusted input. */

export const MAX_TEXT = 1_000_000; // characters of all questions and answers
const MAX_TOKENS = 500_000; // brackets, commas and colons: parsing spends time on each before anything is validated

/** A file that is no saved conversation. `code` names the fault; `details` are numbers for its message. */
export class SavedConversationError extends Error {
    constructor(code, details = {}) {
        super(code);
        this.code = code;
        this.details = details;
    }
}

/** Whether JSON has few enough parts to be parsed. */
export function isParsable(text) {
    return (text.match(/[[{,:]/g)?.length ?? 0) <= MAX_TOKENS;
}

/** Whether a value is a JSON object. */
export function isObject(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Return the beginning of a name; "" if the value is no text. */
export function readName(value) {
    return typeof value === "string" ? value.toWellFormed().slice(0, 200) : "";
}

/** Return the number of characters of all questions and answers. */
export function textLength(turns) {
    return turns.reduce((sum, { question, answer }) => sum + question.length + answer.length, 0);
}

/**
 * Return the questions and answers of turns or branches.
 *
 * @param {Array} items
 * @param {number} limit - characters of a question or an answer
 * @throws {SavedConversationError} "turn" or "text"
 */
export function readTexts(items, limit) {
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

/**
 * Return the settings of a file that the server knows, each brought into its range.
 *
 * @param {*} value - {name: number or null}; anything else has no settings
 * @param {Object} ranges - `settings` of the server's PageInfo
 * @returns {Object|null} null if there are none
 */
export function readSettings(value, ranges) {
    if (!isObject(value)) return null;
    const found = {};
    for (const [name, { min, max, step, value: usual }] of Object.entries(ranges)) {
        const number = value[name];
        if (number === null && usual === null) found[name] = null; // a random seed
        if (!Number.isFinite(number)) continue;
        const inRange = Math.min(max, Math.max(min, number));
        found[name] = step >= 1 ? Math.round(inRange) : inRange;
    }
    return Object.keys(found).length ? found : null;
}
