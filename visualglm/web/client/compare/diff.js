/** The differences of two texts, word by word; Chinese, Japanese and Korean character by character. */

const CHARACTERS = "\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Hangul}";
const WORDS = new RegExp(`[${CHARACTERS}]|(?:(?![${CHARACTERS}])[\\p{L}\\p{N}\\p{M}'’_])+|\\s+|.`, "gsu");
const MAX_CELLS = 4_000_000; // of the table of common subsequences; longer texts are compared at their ends only

/** Split a text into words, white space and punctuation; joined they are the text. */
export function splitWords(text) {
    return text.match(WORDS) ?? [];
}

/**
 * Compare two texts.
 *
 * @param {string} a
 * @param {string} b
 * @returns {Array<Array<{text: string, isCommon: boolean}>>} the parts of `a` and of `b`; joined they are the texts
 */
export function compareTexts(a, b) {
    const [left, right] = [splitWords(a), splitWords(b)];
    const start = commonLength(left, right);
    const end = commonLength(left.slice(start).reverse(), right.slice(start).reverse());
    const marks = longestCommon(left.slice(start, left.length - end), right.slice(start, right.length - end));
    return [left, right].map((words, side) => {
        const isCommon = (index) =>
            index < start || index >= words.length - end || marks[side][index - start];
        return joinParts(words, isCommon);
    });
}

/** Return the number of equal words at the beginning of both lists. */
function commonLength(left, right) {
    const limit = Math.min(left.length, right.length);
    let length = 0;
    while (length < limit && left[length] === right[length]) length += 1;
    return length;
}

/** Mark the words of a longest common subsequence: two arrays of booleans. */
function longestCommon(left, right) {
    const marks = [new Array(left.length).fill(false), new Array(right.length).fill(false)];
    const width = right.length + 1;
    if ((left.length + 1) * width > MAX_CELLS) return marks;
    const lengths = new Uint32Array((left.length + 1) * width); // of the common subsequence of both rests
    for (let i = left.length - 1; i >= 0; i -= 1) {
        for (let j = right.length - 1; j >= 0; j -= 1) {
            const [below, beside] = [lengths[(i + 1) * width + j], lengths[i * width + j + 1]];
            const both = lengths[(i + 1) * width + j + 1] + 1;
            lengths[i * width + j] = left[i] === right[j] ? both : Math.max(below, beside);
        }
    }
    for (let i = 0, j = 0; i < left.length && j < right.length; ) {
        if (left[i] === right[j]) marks[0][i++] = marks[1][j++] = true;
        else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i += 1;
        else j += 1;
    }
    return marks;
}

/** Join neighboring words that are both common, or both not. */
function joinParts(words, isCommon) {
    const parts = [];
    words.forEach((text, index) => {
        const part = { text, isCommon: Boolean(isCommon(index)) };
        const last = parts.at(-1);
        if (last?.isCommon === part.isCommon) last.text += text;
        else parts.push(part);
    });
    return parts;
}
