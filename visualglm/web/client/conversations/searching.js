/** Search stored conversations. */

const BEFORE = 16; // characters of a snippet before the hit
const AFTER = 60;

/**
 * Return what a search looks at in a conversation: title, name of the image, questions and answers.
 *
 * @returns {Array<{nodeId: string|null, text: string, lower: string}>}
 */
export function searchableTexts(conversation) {
    const nodes = Object.values(conversation.nodes)
        .filter((node) => !node.removed)
        .sort((a, b) => a.created - b.created);
    const found = [conversation.title, conversation.imageName].map((text) => ({ nodeId: null, text }));
    for (const { id, question, answer } of nodes) found.push({ nodeId: id, text: question }, { nodeId: id, text: answer });
    return found.filter(({ text }) => text).map((part) => ({ ...part, lower: part.text.toLowerCase() }));
}

/**
 * Find a text, in upper or lower case.
 *
 * @param {Array} parts - of `searchableTexts`
 * @param {string} query
 * @returns {{count: number, nodeId: string|null, snippet: {before: string, hit: string, after: string}|null}} the number
 *     of hits, and the place of the first one
 */
export function findHits(parts, query) {
    const wanted = query.toLowerCase();
    const result = { count: 0, nodeId: null, snippet: null };
    for (const { nodeId, text, lower } of parts) {
        for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, at + wanted.length)) {
            if (!result.count) Object.assign(result, { nodeId, snippet: snippetAt(text, at, wanted.length) });
            result.count += 1;
        }
    }
    return result;
}

function snippetAt(text, at, length) {
    const start = Math.max(0, at - BEFORE);
    const end = at + length;
    return {
        before: (start ? "…" : "") + oneLine(text.slice(start, at)),
        hit: oneLine(text.slice(at, end)),
        after: oneLine(text.slice(end, end + AFTER)) + (end + AFTER < text.length ? "…" : ""),
    };
}

function oneLine(text) {
    return text.replace(/\s+/g, " ");
}
