/** The days of a list of conversations. */

import { language } from "../core/i18n.js";
import { words } from "./conversations_words.js";

const DAY_MS = 24 * 60 * 60 * 1000;

/**
 * Group conversations by the day of their last change, the newest first.
 *
 * @param {Object[]} conversations
 * @returns {Array<{day: number, items: Object[]}>} day: midnight of the visitor's clock, in milliseconds
 */
export function groupByDay(conversations) {
    const groups = [];
    for (const conversation of [...conversations].sort((a, b) => b.updated - a.updated)) {
        const day = new Date(conversation.updated).setHours(0, 0, 0, 0);
        if (groups.at(-1)?.day !== day) groups.push({ day, items: [] });
        groups.at(-1).items.push(conversation);
    }
    return groups;
}

/** Return the name of a day, which is given by its midnight: "Today", or its date. */
export function dayName(day) {
    const today = new Date().setHours(0, 0, 0, 0);
    if (day === today) return words.today;
    if (day === new Date(today - DAY_MS / 2).setHours(0, 0, 0, 0)) return words.yesterday;
    const locale = language() === "zh" ? "zh-CN" : "en-GB";
    return new Date(day).toLocaleDateString(locale, { weekday: "long", year: "numeric", month: "long", day: "numeric" });
}
