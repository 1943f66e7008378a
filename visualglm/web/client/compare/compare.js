/** Comparing: while it is on, each question is answered twice, by two models or with two settings. */

import { element, iconButton, replaceChildren } from "../core/dom.js";
import { onLanguage, texts } from "../core/i18n.js";
import { settingsText } from "../settings/setting_texts.js";
import { compareDialog } from "./compare_dialog.js";

const STORED = "comparison"; // id of the record among the store's values
const words = texts({
    en: {
        title: "Compare two answers",
        on: "Each question is answered twice.",
        change: "Change what is compared",
        stop: "Stop comparing",
        colon: ": ",
    },
    zh: {
        title: "比较两个回答",
        on: "每个问题回答两次。",
        change: "更改比较内容",
        stop: "停止比较",
        colon: "：",
    },
});

/** Build this part of the page: the button, the dialog, and the line that says that comparing is on. */
export function buildCompare(app) {
    const button = iconButton("compare", () => words.title, { id: "compare-button", style: { order: 5 }, onclick: open });
    const text = element("p", {});
    const change = iconButton("settings", () => words.change, { onclick: open });
    const stop = iconButton("close", () => words.stop, { onclick: stopComparing });
    const bar = element("section.comparison-bar", { "aria-label": () => words.title, hidden: true }, text, change, stop);
    document.getElementById("tools").append(button);
    document.getElementById("composer").before(bar);

    function open() {
        compareDialog(app, { onCompare: (sides) => choose({ sides }), onStop: () => choose(null) });
    }

    function stopComparing() {
        choose(null);
        document.getElementById("question").focus();
    }

    function choose(comparison) {
        app.comparison = comparison;
        app.store.put("values", { id: STORED, value: comparison });
        app.emit("comparison");
    }

    function draw() {
        bar.hidden = !app.comparison;
        button.setAttribute("aria-pressed", String(Boolean(app.comparison)));
        replaceChildren(text, element("span", {}, words.on), app.comparison && sideTexts(app));
    }

    app.on("comparison", draw);
    app.on("settings", draw);
    onLanguage(draw);
    app.comparison = app.info.features.compare ? { sides: bothModels() } : null;
    app.store.get("values", STORED).then((record) => {
        if (record && canUse(app, record.value)) app.comparison = record.value;
        app.emit("comparison");
    });
    draw();
}

function bothModels() {
    return [0, 1].map((model) => ({ model, settings: {} }));
}

/** Whether the server still has the models of a stored comparison. */
function canUse({ info }, comparison) {
    return !comparison || comparison.sides.every(({ model }) => model < info.models.length);
}

/** Describe both sides: "A: base", "B: temperature 0". */
function sideTexts(app) {
    const { sides } = app.comparison;
    const [a, b] = sides.map(({ settings }) => ({ ...app.settings, ...settings }));
    const isTwoModels = sides[0].model !== sides[1].model;
    return [a, b].map((settings, index) => {
        const parts = [isTwoModels && app.info.models[sides[index].model], settingsText(settings, a, b)].filter(Boolean);
        const badge = ["A", "B"][index];
        return parts.length ? element("span.side", {}, element("b", {}, badge), words.colon, parts.join(" · ")) : null;
    });
}
