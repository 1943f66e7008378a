/** The words of an explained answer, each with the map of the token that relies most on the image. */

import { languageOf } from "../core/scripts.js";

/** In nats: a word that relies less on the image is more than half as likely without it. */
export const LEAST_RELIANCE = Math.log(2);
const WORD = /[\p{L}\p{N}]/u;
const OLD_BROWSERS = /\p{Script=Han}|[\p{L}\p{N}'’-]+|\s+|[^\p{L}\p{N}\s]+/gu; // those without Intl.Segmenter

/**
 * Return the parts of an answer, in order: words, and what stands between them.
 *
 * Words that share a token are one part, because their maps cannot be told apart.
 *
 * @param {string} text
 * @param {Array<{start: number, end: number, reliance: number, map: ?string}>} tokens
 * @returns {Array<{text: string, isWord: boolean, reliance: number, map: ?string}>}
 */
export function splitAnswer(text, tokens) {
    return mergeParts(segments(text), tokens).map(({ start, end }) => {
        const content = text.slice(start, end);
        const own = tokens.filter((token) => token.start < end && token.end > start);
        const [strongest] = [...own].sort((a, b) => b.reliance - a.reliance);
        const reliance = own.reduce((sum, token) => sum + token.reliance, 0);
        return { text: content, isWord: own.length > 0 && WORD.test(content), reliance, map: strongest?.map ?? null };
    });
}

function segments(text) {
    const language = languageOf(text) ?? "en";
    const found = Intl.Segmenter
        ? [...new Intl.Segmenter(language, { granularity: "word" }).segment(text)].map(({ segment }) => segment)
        : (text.match(OLD_BROWSERS) ?? []);
    let start = 0;
    return found.map((segment) => ({ start, end: (start += segment.length) }));
}

/** Merge neighbors that share a token. */
function mergeParts(parts, tokens) {
    const merged = [];
    for (const part of parts) {
        const isShared = tokens.some(({ start, end }) => start < part.start && part.start < end);
        if (isShared && merged.length) merged.at(-1).end = part.end;
        else merged.push({ ...part });
    }
    return merged;
}
