/** The list of earlier conversations: open, search, rename, delete, forget everything. */

import { ancestors, chooseBranch, titleOf } from "../core/conversation.js";
import { toast } from "../core/dialogs.js";
import { append, element, icon, iconButton, replaceChildren } from "../core/dom.js";
import { formatNumber, onLanguage } from "../core/i18n.js";
import { saveConversation } from "../files/files.js";
import { addShortcut } from "../frame/shortcuts.js";
import { ThumbnailLoader } from "../image/thumbnails.js";
import { hasContent } from "../store/history.js";
import { askToForget, deleteConversation, renameConversation } from "./conversation_actions.js";
import { conversationRow } from "./conversation_row.js";
import { words } from "./conversations_words.js";
import { dayName, groupByDay } from "./days.js";
import { findHits, searchableTexts } from "./searching.js";

const PAGE_SIZE = 60; // rows that are drawn at first, and added on scrolling
const DRAW_DELAY_MS = 80;
const OPEN_KEY = "conversations-open";
const isWide = matchMedia("(min-width: 1100px)"); // there the list may stay open
const covers = matchMedia("(max-width: 800px)"); // there the list lies over the page

/** Build the list and its button. */
export function buildConversations(app) {
    new ConversationList(app);
}

class ConversationList {
    constructor(app) {
        this.app = app;
        this.panel = document.getElementById("conversations");
        this.button = document.getElementById("menu-button");
        this.entries = null; // id -> {conversation, parts: what a search looks at}; read when the list is first shown
        this.shownRows = PAGE_SIZE;
        this.timer = null;
        this.thumbnails = new ThumbnailLoader(async (imageId) => {
            const record = await app.store.get("images", imageId);
            return record && (record.preview || record.blob);
        });
        this.button.append(icon("menu"));
        this.button.addEventListener("click", () => this.toggle(this.panel.hidden));
        this.build();
        this.listen();
        this.restore();
    }

    build() {
        const close = iconButton("close", () => words.close, { onclick: () => this.toggle(false) });
        const add = element(
            "button.button",
            { type: "button", id: "new-conversation", onclick: () => this.startNew() },
            icon("new"),
            () => words.new,
        );
        this.input = element("input.text-input", {
            type: "search",
            id: "search",
            "aria-label": () => words.search,
            placeholder: () => words.search,
            oninput: () => this.searched(),
        });
        this.note = element("div.history-note", { hidden: true });
        this.count = element("p.history-count", { role: "status" });
        this.rows = element("div.history-rows");
        this.older = element("button.button", { type: "button", hidden: true, onclick: () => this.showOlder() }, () => words.more);
        const forget = element(
            "button.button.history-forget",
            { type: "button", onclick: () => this.forgetEverything() },
            icon("delete"),
            () => words.forget,
        );
        const header = element("header.panel-header", {}, element("h2", {}, () => words.title), close);
        append(this.panel, [
            element("div.history-top", {}, header, add, this.input, this.count),
            this.note,
            this.rows,
            this.older,
            element("footer", {}, forget),
        ]);
    }

    listen() {
        const { app, panel } = this;
        app.on("list", (id) => this.refresh(id));
        for (const event of ["open", "running"]) app.on(event, () => this.drawSoon());
        onLanguage(() => this.draw());
        addShortcut({ keys: "Control+k", shown: "Control+K", label: () => words.searchShortcut, run: () => this.focusSearch() });
        panel.addEventListener("keydown", (event) => {
            if (event.key !== "Escape") return;
            event.stopPropagation(); // it does not stop an answer
            if (event.target === this.input && this.input.value) return;
            event.preventDefault();
            this.toggle(false);
        });
        document.addEventListener("pointerdown", ({ target }) => {
            const isElsewhere = !panel.contains(target) && !this.button.contains(target) && !target.closest("dialog, .menu, .toast");
            if (covers.matches && !panel.hidden && isElsewhere) this.toggle(false);
        });
        covers.addEventListener("change", () => this.cover());
        const reached = new IntersectionObserver(([entry]) => entry.isIntersecting && this.showOlder());
        reached.observe(this.older);
    }

    async restore() {
        const { store } = this.app;
        const stored = await store.get("values", OPEN_KEY);
        if (isWide.matches && stored?.value) this.show(true);
        if (!["", "disabled"].includes(store.reason)) toast(words[store.reason], { kind: "error" });
    }

    /** Show or hide the list, and move the focus. On a wide screen the choice is remembered. */
    toggle(open) {
        this.show(open);
        if (open) this.panel.querySelector("#new-conversation").focus();
        else this.button.focus();
        if (isWide.matches) this.app.store.put("values", { id: OPEN_KEY, value: open });
    }

    show(open) {
        this.panel.hidden = !open;
        this.button.setAttribute("aria-expanded", String(open));
        this.cover();
        if (open && !this.entries) this.load();
        else if (open) this.draw();
    }

    /** Keep the keyboard out of what the list covers. */
    cover() {
        document.getElementById("main").inert = covers.matches && !this.panel.hidden;
    }

    focusSearch() {
        this.show(true);
        this.input.focus();
        this.input.select();
    }

    async load() {
        this.entries = new Map();
        for (const conversation of await this.app.store.all("conversations")) this.enter(conversation);
        this.draw();
    }

    enter(conversation) {
        this.entries.set(conversation.id, { conversation, parts: null });
    }

    /** Read a conversation again that was stored or deleted; null stands for all. */
    async refresh(id) {
        if (!this.entries) return;
        if (id === null || id === undefined) {
            await this.load();
            return;
        }
        const conversation = await this.app.store.get("conversations", id);
        if (conversation) this.enter(conversation);
        else this.entries.delete(id);
        this.drawSoon();
    }

    searched() {
        this.shownRows = PAGE_SIZE;
        this.drawSoon();
    }

    drawSoon() {
        this.timer ??= setTimeout(() => this.draw(), DRAW_DELAY_MS);
    }

    draw() {
        clearTimeout(this.timer);
        this.timer = null;
        if (this.panel.hidden || !this.entries) return;
        if (this.rows.querySelector(".menu")) {
            this.drawSoon(); // an open menu stays
            return;
        }
        const focus = rememberFocus(this.rows);
        const query = this.input.value.trim();
        const found = this.find(query);
        const shown = found.slice(0, this.shownRows);
        replaceChildren(this.rows, groupByDay(shown.map(({ conversation }) => conversation)).map((group) => this.drawDay(group, found)));
        if (!found.length && !query) replaceChildren(this.rows, element("p.history-none", {}, words.none));
        this.older.hidden = shown.length === found.length;
        const hits = found.reduce((sum, { hits: { count } }) => sum + count, 0);
        this.count.textContent = query && (hits ? words.hits(formatNumber(hits), formatNumber(found.length)) : words.noHits);
        this.drawNote();
        focus();
    }

    /** Return the entries that a search finds, or all, the newest first. */
    find(query) {
        const entries = [...this.entries.values()].filter(({ conversation }) => hasContent(conversation));
        entries.sort((a, b) => b.conversation.updated - a.conversation.updated);
        if (!query) return entries.map((entry) => ({ ...entry, hits: { count: 0 } }));
        for (const entry of entries) entry.parts ??= searchableTexts(entry.conversation);
        return entries.map((entry) => ({ ...entry, hits: findHits(entry.parts, query) })).filter(({ hits }) => hits.count);
    }

    drawDay({ day, items }, found) {
        const hitsOf = new Map(found.map(({ conversation, hits }) => [conversation.id, hits]));
        const rows = items.map((conversation) =>
            conversationRow(conversation, {
                title: titleOf(conversation) || conversation.draft || words.untitled,
                isOpen: conversation.id === this.app.conversation.id,
                isRunning: this.app.runsIn(conversation),
                hits: hitsOf.get(conversation.id),
                thumbnails: this.thumbnails,
                open: () => this.open(conversation.id, hitsOf.get(conversation.id)),
                actions: [
                    { label: words.rename, iconName: "edit", run: () => renameConversation(this.app, conversation.id) },
                    { label: words.delete, iconName: "delete", kind: "danger", run: () => this.delete(conversation.id) },
                ],
            }),
        );
        return element("section", {}, element("h3", {}, dayName(day)), element("ul", {}, rows));
    }

    drawNote() {
        const { reason } = this.app.store;
        this.note.hidden = !reason;
        if (!reason) return;
        const save = element("button.button", { type: "button", onclick: () => saveConversation(this.app) }, words.saveFile);
        replaceChildren(this.note, element("p", {}, words[reason]), save);
    }

    showOlder() {
        if (this.older.hidden) return;
        this.shownRows += PAGE_SIZE;
        this.draw();
    }

    startNew() {
        if (hasContent(this.app.conversation)) this.app.startNew();
        this.leave();
    }

    /** Show a conversation; after a search, the branch with the first hit. */
    async open(id, hits) {
        const conversation = await this.app.store.get("conversations", id);
        if (!conversation) return;
        if (id !== this.app.conversation.id) this.app.show(conversation);
        if (hits?.nodeId) {
            for (const node of ancestors(this.app.conversation, hits.nodeId)) chooseBranch(this.app.conversation, node);
            this.app.emit("change");
        }
        this.leave();
    }

    /** Go to the question field, unless the list may stay open. */
    leave() {
        if (covers.matches) this.show(false);
        this.app.emit("view");
        document.getElementById("question").focus();
        this.draw();
    }

    async delete(id) {
        await deleteConversation(this.app, id);
        this.draw();
    }

    async forgetEverything() {
        const count = [...(this.entries?.values() ?? [])].filter(({ conversation }) => hasContent(conversation)).length;
        if (await askToForget(this.app, count, () => (this.input.value = ""))) toast(words.forgotten);
    }
}

/** Return a function that focuses the row again that has the focus now, after the rows were drawn again. */
function rememberFocus(rows) {
    const active = document.activeElement;
    if (!rows.contains(active) || !active.closest("[data-id]")) return () => {};
    const row = active.closest("[data-id]");
    const place = [...rows.querySelectorAll("[data-id]")].indexOf(row);
    const selector = active.matches(".history-open") ? ".history-open" : ".icon-button";
    return () => {
        const all = [...rows.querySelectorAll("[data-id]")];
        const next = all.find(({ dataset }) => dataset.id === row.dataset.id) ?? all[place] ?? all.at(-1); // if it is gone
        (next?.querySelector(selector) ?? document.getElementById("new-conversation")).focus({ preventScroll: true });
    };
}
