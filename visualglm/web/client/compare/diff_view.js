/** Texts with marked differences: `del` is in the former text only, `ins` in the latter only. */

import { element } from "../core/dom.js";
import { languageOf } from "../core/scripts.js";
import { compareTexts } from "./diff.js";

/**
 * Show two texts, each with the words marked that the other one lacks.
 *
 * @param {HTMLElement[]} places - the elements that show the texts; their children are replaced
 * @param {string[]} texts
 */
export function markDifferences(places, texts) {
    const [a, b] = compareTexts(...texts);
    places[0].replaceChildren(...a.map(({ text, isCommon }) => (isCommon ? text : element("del", {}, text))));
    places[1].replaceChildren(...b.map(({ text, isCommon }) => (isCommon ? text : element("ins", {}, text))));
}

/** Create an element that shows a text and its changes: what was deleted, followed by what was inserted. */
export function markedText(former, latter) {
    const [before, after] = compareTexts(former, latter);
    const parts = [];
    while (before.length || after.length) {
        if (before[0] && !before[0].isCommon) parts.push(element("del", {}, before.shift().text));
        else if (after[0] && !after[0].isCommon) parts.push(element("ins", {}, after.shift().text));
        else parts.push(takeCommon(before, after));
    }
    return element("p.text", { lang: languageOf(latter) }, parts);
}

/** Take the common text at the beginning of both lists, which may end at different places. */
function takeCommon(before, after) {
    const length = Math.min(before[0].text.length, after[0].text.length);
    const text = before[0].text.slice(0, length);
    for (const parts of [before, after]) {
        parts[0] = { ...parts[0], text: parts[0].text.slice(length) };
        if (!parts[0].text) parts.shift();
    }
    return text;
}
