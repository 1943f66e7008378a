/** The dialog in which the visitor chooses what is compared: the model and the sampling settings of both sides. */

import { openDialog } from "../core/dialogs.js";
import { element } from "../core/dom.js";
import { texts } from "../core/i18n.js";

const SETTINGS = ["temperature", "top_p", "top_k", "repetition_penalty", "seed"];
const BADGES = ["A", "B"];
const OTHER_TEMPERATURE = 0.8; // of side B at first, if A always takes the most likely token
const words = texts({
    en: {
        title: "Compare two answers",
        info: "Each question is answered twice, side by side, and the differences are marked.",
        model: "model",
        random: "random",
        compare: "Compare",
        stop: "Stop comparing",
        field: (name, badge) => `${name} of ${badge}`,
    },
    zh: {
        title: "比较两个回答",
        info: "每个问题回答两次，两个回答并排显示，并标出不同之处。",
        model: "模型",
        random: "随机",
        compare: "比较",
        stop: "停止比较",
        field: (name, badge) => `${badge} 的 ${name}`,
    },
});

/**
 * Open the dialog.
 *
 * @param {App} app
 * @param {Object} options
 * @param {function(Array<{model: number, settings: Object}>)} options.onCompare - called with both sides
 * @param {function()} options.onStop - called if the visitor switches comparing off
 */
export function compareDialog(app, { onCompare, onStop }) {
    const sides = (app.comparison?.sides ?? defaultSides(app)).map(({ model, settings }) => ({
        model,
        settings: { ...app.settings, ...settings },
    }));
    const rows = SETTINGS.filter((name) => name in app.info.settings).map((name) => settingRow(app, name, sides));
    if (app.info.models.length > 1) rows.unshift(modelRow(app, sides));
    const heads = [element("span", {}), ...BADGES.map((badge) => element("span.badge", { "aria-hidden": "true" }, badge))];
    const stop = element("button.button", { type: "button", onclick: finish(onStop) }, words.stop);
    const submit = element("button.button.primary", { type: "submit" }, words.compare);
    const form = element(
        "form",
        { novalidate: true, onsubmit: finish(() => onCompare(keptSettings(app, sides))) },
        element("div.compare-grid", {}, heads, rows),
        element("div.dialog-actions", {}, app.comparison && stop, submit),
    );
    const dialog = openDialog({ title: words.title, className: "compare-dialog", content: [element("p.hint", {}, words.info), form] });

    function finish(run) {
        return (event) => {
            event.preventDefault();
            dialog.close();
            run();
        };
    }
}

/** Compare both models, or the page's settings with answers at another temperature. */
function defaultSides(app) {
    if (app.info.models.length > 1) return [0, 1].map((model) => ({ model, settings: {} }));
    const temperature = app.settings.temperature > 0 ? 0 : OTHER_TEMPERATURE;
    return [{}, { temperature }].map((settings) => ({ model: 0, settings }));
}

/** Drop settings that both sides share with the page, so that they follow the page's settings. */
function keptSettings(app, sides) {
    const [a, b] = sides.map(({ settings }) => settings);
    const kept = SETTINGS.filter((name) => a[name] !== b[name] || a[name] !== app.settings[name]);
    const pick = (settings) => Object.fromEntries(kept.map((name) => [name, settings[name]]));
    return sides.map(({ model, settings }) => ({ model, settings: pick(settings) }));
}

function modelRow(app, sides) {
    const choices = sides.map((side, index) => {
        const options = app.info.models.map((name, model) => element("option", { value: model, selected: model === side.model }, name));
        const change = ({ target }) => {
            side.model = Number(target.value);
        };
        return element("select.text-input", { "aria-label": words.field(words.model, BADGES[index]), onchange: change }, options);
    });
    return [element("span.setting-label", {}, words.model), choices];
}

function settingRow(app, name, sides) {
    const range = app.info.settings[name];
    const fields = sides.map(({ settings }, index) => {
        const field = element("input.text-input", {
            type: "text",
            inputmode: name === "seed" ? "numeric" : "decimal",
            autocomplete: "off",
            value: settings[name] ?? "",
            placeholder: name === "seed" ? words.random : range.value,
            "aria-label": words.field(name, BADGES[index]),
            onchange: () => {
                settings[name] = readSetting(field.value, range, settings[name]);
                field.value = settings[name] ?? "";
            },
        });
        return field;
    });
    return [element("span.setting-label", {}, name), fields];
}

/** Return the number in a field, brought into its range; the former value if it is no number. An empty seed is random. */
function readSetting(text, { min, max, step, value }, former) {
    if (!text.trim()) return value;
    const number = Number(text);
    if (!Number.isFinite(number)) return former;
    const inRange = Math.min(max, Math.max(min, number));
    return step >= 1 ? Math.round(inRange) : inRange;
}
