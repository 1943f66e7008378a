/** One row of the list of conversations: thumbnail, title, time, hits of a search, and a menu. */

import { shownNodes } from "../core/conversation.js";
import { openMenu } from "../core/dialogs.js";
import { element, icon, iconButton } from "../core/dom.js";
import { formatNumber, language, texts } from "../core/i18n.js";

const words = texts({
    en: {
        menu: (title) => `Actions for “${title}”`,
        running: "answering…",
        hits: (count) => (count === "1" ? "1 hit" : `${count} hits`),
        turns: (count) => (count === 1 ? "1 question" : `${count} questions`),
        draft: "draft",
    },
    zh: {
        menu: (title) => `“${title}”的操作`,
        running: "正在回答…",
        hits: (count) => `${count} 处`,
        turns: (count) => `${count} 个问题`,
        draft: "草稿",
    },
});

/**
 * Build the row of a conversation.
 *
 * @param {Object} conversation
 * @param {Object} options
 * @param {string} options.title
 * @param {boolean} options.isOpen
 * @param {boolean} options.isRunning - whether an answer is being written
 * @param {{count: number, snippet: Object|null}} options.hits - of a search
 * @param {ThumbnailLoader} options.thumbnails
 * @param {Function} options.open
 * @param {Array} options.actions - items of the menu
 * @returns {HTMLLIElement}
 */
export function conversationRow(conversation, { title, isOpen, isRunning, hits, thumbnails, open, actions }) {
    const turns = shownNodes(conversation).length;
    const details = [turns ? words.turns(turns) : words.draft, clockTime(conversation.updated)];
    if (hits.count) details.unshift(words.hits(formatNumber(hits.count)));
    const menu = iconButton("more", () => words.menu(title), { "aria-haspopup": "menu", "aria-expanded": "false" });
    menu.addEventListener("click", () => openMenu(menu, actions));
    const text = element(
        "span.history-text",
        {},
        element("span.history-title", {}, title),
        hits.snippet && snippet(hits.snippet),
        element("span.history-details", {}, isRunning && element("span.history-running", {}, words.running), details.join(" · ")),
    );
    const button = element(
        "button.history-open",
        { type: "button", "aria-current": isOpen && "true", onclick: open },
        conversation.imageId ? thumbnails.image(conversation.imageId) : element("span.thumbnail", {}, icon("edit")),
        text,
    );
    return element("li.history-row", { dataset: { id: conversation.id } }, button, menu);
}

/** Format the time of a day; the group of the row says which day. */
function clockTime(milliseconds) {
    return new Date(milliseconds).toLocaleTimeString(language() === "zh" ? "zh-CN" : "en-GB", { hour: "2-digit", minute: "2-digit" });
}

function snippet({ before, hit, after }) {
    return element("span.history-snippet", {}, before, element("mark", {}, hit), after);
}
