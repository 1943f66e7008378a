/** The settings that differ between two compared answers, in words. */

import { formatNumber, texts } from "../core/i18n.js";

const words = texts({
    en: { random: "random", comma: ", " },
    zh: { random: "随机", comma: "，" },
});
const shownDigits = (number) => (Number.isInteger(number) ? 0 : 2);

/** Return the settings whose values differ between `a` and `b`, with the values of `settings`: "temperature 0.20". */
export function settingsText(settings, a, b) {
    const names = Object.keys({ ...a, ...b }).filter((name) => (a?.[name] ?? null) !== (b?.[name] ?? null));
    return names.map((name) => `${name} ${valueText(name, settings?.[name])}`).join(words.comma);
}

function valueText(name, value) {
    if (value === null || value === undefined) return words.random;
    return name === "seed" ? String(value) : formatNumber(value, shownDigits(value));
}
