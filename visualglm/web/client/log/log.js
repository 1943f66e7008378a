/** The log: the rounds of the open conversation. Only what changed is drawn again. */

import { shownPlaces } from "../core/conversation.js";
import { element, icon } from "../core/dom.js";
import { onLanguage, texts } from "../core/i18n.js";
import { followUps } from "../questions/followups.js";
import { announcement, roundView } from "./round_view.js";
import { versionsOf } from "./rounds.js";
import { followEnd } from "./scroll.js";

const TICK_MS = 1000; // the seconds of a waiting answer
const ANNOUNCED_MS = 5000; // then the text is removed, so that a screen reader does not find it twice
const words = texts({
    en: { newest: "To the newest" },
    zh: { newest: "回到最新" },
});

/** Build this part of the page. */
export function buildLog(app) {
    const log = document.getElementById("log");
    const rounds = element("div.rounds");
    const follow = followUps(app);
    const content = element("div.log-content", {}, rounds, follow.element);
    const newest = element("button.button", { type: "button", onclick: goToEnd }, icon("down"), element("span", {}, () => words.newest));
    const announcer = announcerAfter(log);
    log.append(content);
    log.after(element("div.newest", {}, newest));
    const scroll = followEnd(log, content, newest);
    const views = new Map(); // key of a version -> its view
    const viewOf = new Map(); // id of a shown node -> its view
    const waiting = new Set(); // ids of nodes whose end has to be announced
    let scheduled = false;
    let last; // the last shown node

    function goToEnd() {
        scroll.toEnd();
        log.focus({ preventScroll: true });
    }

    /** Draw soon, once for all changes that are made at a time. */
    function schedule() {
        if (scheduled) return;
        scheduled = true;
        queueMicrotask(draw);
    }

    function draw() {
        scheduled = false;
        const restoreFocus = rememberFocus(rounds);
        const shown = shownPlaces(app.conversation).map(({ node, choices }) => shownRound(node, choices));
        removeViews(new Set(shown.map(({ key }) => key)));
        viewOf.clear();
        shown.forEach(drawRound);
        log.hidden = !shown.length;
        const newLast = shown.at(-1)?.version.nodes[0];
        const isNew = newLast?.status === "running" && newLast.id !== last?.id;
        last = newLast;
        follow.update(last);
        restoreFocus(views, log);
        if (isNew) scroll.toEnd();
    }

    function removeViews(kept) {
        for (const [key, view] of views) {
            if (kept.has(key)) continue;
            view.element.remove();
            views.delete(key);
        }
    }

    function drawRound(round, index) {
        if (!views.has(round.key)) {
            const created = roundView(app, round.version.nodes.length > 1);
            created.element.dataset.place = round.version.nodes[0].parent ?? "start";
            views.set(round.key, created);
        }
        const view = views.get(round.key);
        view.update(round);
        for (const { id, status } of round.version.nodes) {
            viewOf.set(id, view);
            if (status === "running") waiting.add(id);
        }
        if (rounds.children[index] !== view.element) rounds.insertBefore(view.element, rounds.children[index] ?? null);
    }

    function drawNode(node) {
        viewOf.get(node.id)?.updateNode(node);
        if (node.status === "running") return;
        if (waiting.delete(node.id)) announcer.say(announcement(app, node));
        schedule();
    }

    function tick() {
        for (const id of app.running.keys()) if (id in app.conversation.nodes) drawNode(app.conversation.nodes[id]);
    }

    app.on("open", () => {
        removeViews(new Set());
        waiting.clear();
        draw();
        scroll.toEnd();
    });
    for (const name of ["change", "image", "running"]) app.on(name, schedule);
    app.on("node", drawNode);
    onLanguage(schedule);
    setInterval(tick, TICK_MS);
    draw();
}

/** Return what the log shows at one place: the version of `node` among all. */
function shownRound(node, choices) {
    const versions = versionsOf(choices);
    const version = versions.find(({ nodes }) => nodes.includes(node));
    return { version, versions, key: `${version.key} ${version.nodes.length}` };
}

/** Return a function that puts the focus back after a redraw, on the same control of the round at the same place. */
function rememberFocus(rounds) {
    const active = document.activeElement;
    if (!active || !rounds.parentNode.contains(active)) return () => {};
    const place = active.closest(".round")?.dataset.place;
    const action = active.dataset.action;
    return (views, log) => {
        if (active.isConnected && active.checkVisibility()) return;
        const all = [...views.values()];
        const view = all.find(({ element: { dataset } }) => dataset.place === place) ?? all.at(-1);
        if (view) view.focus(action);
        else if (log.hidden) document.getElementById("question").focus();
    };
}

/** Create the place whose text a screen reader says. The log itself is quiet, otherwise each token would be said. */
function announcerAfter(log) {
    const place = element("div.visually-hidden", { id: "announcer", "aria-live": "polite" });
    log.setAttribute("aria-live", "off");
    log.after(place);
    let timer = null;
    const say = (text) => {
        clearTimeout(timer);
        place.textContent = text;
        timer = setTimeout(() => place.replaceChildren(), ANNOUNCED_MS);
    };
    return { say };
}
