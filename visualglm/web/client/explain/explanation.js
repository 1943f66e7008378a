/** What an answer relies on: each word can light up its part of the image. One answer at a time. */

import { explainAnswer } from "../core/api.js";
import { isComplete, promptTurns } from "../core/conversation.js";
import { toast } from "../core/dialogs.js";
import { element, icon, iconButton, replaceChildren, setAttribute } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { placeName, readMap } from "../image/image_map.js";
import { caretAt } from "./caret.js";
import { LEAST_RELIANCE, splitAnswer } from "./words.js";

const KEPT = 20; // explanations, so that opening one again does not compute it again
const MOVES = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity };
const words = texts({
    en: {
        open: "Show where in the image",
        group: "What the answer relies on",
        looking: "Looking for the part of the image …",
        place: (word, place) => `“${word}” relies on the ${place} of the image.`,
        noPlace: (word) => `“${word}”: no single part of the image decides this word.`,
        weak: (word) => `“${word}” would be likely without the image, too.`,
        whole: (place) => `The answer relies most on the ${place} of the image. Choose a word to see its own part.`,
        wholeNowhere: "No single part of the image decides this answer.",
        legend: "Dotted: words that would be likely without the image, too",
        weakWord: "likely without the image, too",
        all: "Whole answer",
        close: "Back to the plain image",
    },
    zh: {
        open: "显示依据图片的哪里",
        group: "回答的依据",
        looking: "正在查找图片中的位置……",
        place: (word, place) => `“${word}”依据图片的${place}。`,
        noPlace: (word) => `“${word}”：图片没有哪个单独的部分决定这个词。`,
        weak: (word) => `“${word}”没有图片也很可能出现。`,
        whole: (place) => `这个回答主要依据图片的${place}。选择一个词，查看它的依据。`,
        wholeNowhere: "图片没有哪个单独的部分决定这个回答。",
        legend: "点线：没有图片也很可能出现的词",
        weakWord: "没有图片也很可能出现",
        all: "整个回答",
        close: "恢复原图",
    },
});
const known = new Map(); // key of an answer -> promise of its explanation

/** End the shown explanation when its answer or its image is no longer shown. */
export function buildExplanations(app) {
    app.explained = null; // the view of the answer that is explained
    const check = () => setTimeout(() => app.explained?.isOutdated() && app.explained.end());
    for (const name of ["open", "change", "image"]) app.on(name, check);
}

/**
 * Create what explains an answer.
 *
 * @param {App} app
 * @param {HTMLElement} text - the answer's text; its words become controls while the answer is explained
 * @returns {{element: HTMLElement, button: HTMLElement, update: function(Object)}} `update` takes the answer's node
 */
export function explanationView(app, text) {
    let node = null;
    let shown = null; // {answer, imageId, parts, selected, result} while the answer is explained
    const status = element("p.explanation-status", { role: "status" });
    const legend = element("p.explanation-legend", {}, element("span.weak", { "aria-hidden": "true" }, "abc"), " ", () => words.legend);
    const all = element("button.button", { type: "button", onclick: () => select(null) }, () => words.all);
    const close = element("button.button", { type: "button", onclick: closeByHand }, icon("close"), () => words.close);
    const bar = element(
        "div.explanation",
        { role: "group", "aria-label": () => words.group, hidden: true, onkeydown: leaveByEscape },
        status,
        legend,
        element("div.explanation-actions", {}, all, close),
    );
    const button = iconButton("target", () => words.open, { "data-action": "explain", "aria-expanded": "false", onclick: toggle, hidden: true });
    text.addEventListener("click", clickText);
    text.addEventListener("keydown", pressInText);

    const canExplain = () =>
        app.info.features.explain && isComplete(node) && Boolean(node.answer.trim() && app.conversation.imageId);
    const view = {
        end,
        isOutdated: () => !text.isConnected || node.answer !== shown.answer || app.conversation.imageId !== shown.imageId,
    };

    function toggle() {
        if (shown) closeByHand();
        else open(null);
    }

    /** Explain the answer; show the word at an index of its text, or the map of the whole answer for null. */
    async function open(index) {
        if (shown || !canExplain()) return;
        app.explained?.end();
        app.explained = view;
        const opened = { answer: node.answer, imageId: app.conversation.imageId, parts: [], selected: null, result: null };
        shown = opened;
        bar.hidden = false;
        button.setAttribute("aria-expanded", "true");
        bar.setAttribute("aria-busy", "true");
        legend.hidden = all.hidden = true;
        replaceChildren(status, () => words.looking);
        try {
            opened.result = await explanationOf(app, node);
        } catch (error) {
            if (shown !== opened) return;
            end();
            toast(error.message, { kind: "error" });
            return;
        }
        if (shown === opened) showWords(index);
    }

    function showWords(index) {
        shown.parts = splitAnswer(shown.answer, shown.result.tokens);
        const isInside = text.contains(document.activeElement) || document.activeElement === button;
        text.replaceChildren(...shown.parts.map(wordElement));
        bar.removeAttribute("aria-busy");
        legend.hidden = !shown.parts.some(isWeak);
        all.hidden = !shown.result.map;
        let start = 0;
        const at = shown.parts.findIndex((part) => index !== null && index < (start += part.text.length));
        const first = controls()[0];
        if (first) first.tabIndex = 0;
        select(shown.parts[at]?.isWord ? at : null);
        if (isInside && index === null) first?.focus({ preventScroll: true });
        bar.scrollIntoView({ block: "nearest" });
    }

    function wordElement(part, index) {
        if (!part.isWord) return part.text;
        const attributes = { role: "button", tabindex: -1, "aria-pressed": "false", "data-index": index };
        const created = element(isWeak(part) ? "span.word.weak" : "span.word", attributes, part.text);
        if (isWeak(part)) for (const key of ["title", "aria-description"]) setAttribute(created, key, () => words.weakWord);
        return created;
    }

    const controls = () => [...text.querySelectorAll(".word")];

    function select(index) {
        shown.selected = index;
        const part = shown.parts[index];
        for (const control of controls()) {
            const isSelected = Number(control.dataset.index) === index;
            control.setAttribute("aria-pressed", String(isSelected));
            if (index !== null) control.tabIndex = isSelected ? 0 : -1;
        }
        all.setAttribute("aria-pressed", String(index === null));
        const { rows, columns, map } = shown.result;
        const chosen = part ? (isWeak(part) ? null : part.map) : map;
        const grid = chosen && readMap(chosen, rows, columns);
        replaceChildren(status, () => describe(part, grid));
        app.emit("map", grid);
    }

    function clickText(event) {
        const control = event.target.closest(".word");
        if (control) select(Number(control.dataset.index));
        else if (!shown && getSelection().isCollapsed) open(caretAt(text, event.clientX, event.clientY));
    }

    function pressInText(event) {
        const control = event.target.closest(".word");
        if (!control) return;
        if (event.key === "Enter" || event.key === " ") select(Number(control.dataset.index));
        else if (event.key in MOVES) moveFocus(control, MOVES[event.key]);
        else {
            leaveByEscape(event);
            return;
        }
        event.preventDefault();
    }

    function moveFocus(control, step) {
        const list = controls();
        const target = list[Math.min(list.length - 1, Math.max(0, list.indexOf(control) + step))];
        control.tabIndex = -1;
        target.tabIndex = 0;
        target.focus();
    }

    function leaveByEscape(event) {
        if (event.key !== "Escape") return;
        event.preventDefault(); // otherwise it would stop a running answer
        closeByHand();
    }

    function closeByHand() {
        end();
        button.focus({ preventScroll: true });
    }

    /** Show the plain answer and the plain image again. */
    function end() {
        if (!shown) return;
        if (text.querySelector(".word")) text.replaceChildren(shown.answer);
        shown = null;
        bar.hidden = true;
        button.setAttribute("aria-expanded", "false");
        button.hidden = !canExplain();
        if (app.explained === view) app.explained = null;
        app.emit("map", null);
    }

    function update(newNode) {
        node = newNode;
        if (shown && view.isOutdated()) end();
        button.hidden = !canExplain();
        text.classList.toggle("explainable", canExplain());
    }

    return { element: bar, button, update };
}

/** Whether a part is a word that is more than half as likely without the image. */
function isWeak({ isWord, reliance }) {
    return isWord && reliance < LEAST_RELIANCE;
}

/** Return what is said about a word, or about the whole answer if there is none. */
function describe(part, grid) {
    if (!part) return grid ? words.whole(placeName(grid)) : words.wholeNowhere;
    const word = part.text.trim();
    if (isWeak(part)) return words.weak(word);
    return grid ? words.place(word, placeName(grid)) : words.noPlace(word);
}

/** Return the explanation of an answer, as the server sends it. */
function explanationOf(app, node) {
    const { imageId } = app.conversation;
    const turns = promptTurns(app.conversation, node.parent).slice(node.stats?.dropped_turns ?? 0);
    const request = { turns, question: node.question, answer: node.answer, model: node.model };
    const key = JSON.stringify([imageId, request]);
    const found = known.get(key) ?? app.images.send(imageId, (image) => explainAnswer({ ...request, image }));
    known.delete(key);
    known.set(key, found); // the newest is the last
    found.catch(() => known.delete(key));
    for (const old of [...known.keys()].slice(0, -KEPT)) known.delete(old);
    return found;
}
