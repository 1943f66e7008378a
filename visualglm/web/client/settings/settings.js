/** The settings of the sampling, and of the page's appearance. They are stored in the browser. */

import { element, iconButton, replaceChildren, setAttribute } from "../core/dom.js";
import { language, onLanguage, setLanguage, texts } from "../core/i18n.js";

const THEMES = ["auto", "light", "dark"];
const words = texts({
    en: {
        settings: "Settings",
        close: "Close the settings",
        reset: "Reset to the model's values",
        sampling: "Sampling",
        appearance: "Appearance",
        theme: "Colors",
        auto: "system",
        light: "light",
        dark: "dark",
        language: "中文",
        languageLabel: "用中文显示此页面",
        seed: "seed",
        seedInfo: "A whole number makes an answer reproducible. Empty: another seed for each answer, shown below it.",
        seedRandom: "random",
        seedWrong: (max) => `A seed is a whole number from 0 to ${max}. The last usable one stays in use.`,
        max_length: "Maximum tokens of prompt and answer together, including the image",
        top_p: "Sample from the smallest set of tokens whose probabilities reach this sum; 1 for all",
        top_k: "Sample from the k most likely tokens; 0 for all",
        temperature: "Higher is more random; 0 always takes the most likely token",
        repetition_penalty: "Lowers the probability of tokens that the answer already has; 1 for no effect",
        number: (name) => `${name} as a number`,
    },
    zh: {
        settings: "设置",
        close: "关闭设置",
        reset: "恢复模型的默认值",
        sampling: "采样",
        appearance: "外观",
        theme: "颜色",
        auto: "跟随系统",
        light: "浅色",
        dark: "深色",
        language: "English",
        languageLabel: "Show this page in English",
        seed: "seed",
        seedInfo: "填写整数后，回答可以复现。留空：每次回答使用不同的 seed，并显示在回答下方。",
        seedRandom: "随机",
        seedWrong: (max) => `seed 是 0 到 ${max} 的整数。仍在使用上一个可用的值。`,
        max_length: "提示词与回答合计的最大 token 数，包括图片占用的 token",
        top_p: "只从累计概率达到该值的最小 token 集合里采样；1 表示全部",
        top_k: "只从概率最大的 k 个 token 里采样；0 表示全部",
        temperature: "越大越随机；0 表示每一步都取概率最大的 token",
        repetition_penalty: "降低回答里已出现的 token 的概率；1 表示不降低",
        number: (name) => `${name} 的数值`,
    },
});

/** Build the panel of the settings, its button, and the switch of the language. */
export function buildSettings(app) {
    const panel = document.getElementById("settings");
    const button = iconButton("settings", () => words.settings, {
        id: "settings-button",
        "aria-controls": "settings",
        "aria-expanded": "false",
        style: { order: 8 },
    });
    const toggle = (open) => {
        panel.hidden = !open;
        button.setAttribute("aria-expanded", String(open));
        (open ? panel.querySelector("button") : button).focus();
    };
    button.addEventListener("click", () => toggle(panel.hidden));
    panel.addEventListener("keydown", (event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        toggle(false);
    });
    document.getElementById("tools").append(languageButton(app), button);
    const close = iconButton("close", () => words.close, { onclick: () => toggle(false) });
    let isOwnChange = false; // the field that the visitor changes shows the value already
    const change = (name, value) => {
        isOwnChange = true;
        app.setSetting(name, value);
        isOwnChange = false;
    };
    const draw = () =>
        replaceChildren(
            panel,
            element("header.panel-header", {}, element("h2", {}, words.settings), close),
            element("h3", {}, words.sampling),
            Object.entries(app.info.settings).map(([name, range]) =>
                name === "seed" ? seedField(app, range, change) : slider(app, name, range, change),
            ),
            element("button.button", { type: "button", onclick: () => reset(app) }, words.reset),
            element("h3", {}, words.appearance),
            themeChoice(app),
        );
    onLanguage(draw);
    draw();
    app.on("settings", () => {
        if (!isOwnChange) draw();
    });
    app.on("forget", () => {
        applyTheme("auto");
        draw();
    });
    app.store.get("values", "theme").then((theme) => applyTheme(theme?.value ?? "auto"));
}

function languageButton(app) {
    const other = () => (language() === "zh" ? "en" : "zh");
    const choose = () => {
        setLanguage(other());
        app.store.put("values", { id: "language", value: language() });
    };
    const attributes = { type: "button", id: "language", lang: other, "aria-label": () => words.languageLabel, onclick: choose };
    const button = element("button.button", attributes, () => words.language);
    button.style.order = 9;
    return button;
}

function reset(app) {
    app.changeSettings(Object.fromEntries(Object.entries(app.info.settings).map(([name, { value }]) => [name, value])));
}

/** A slider and a field for the same number. A number out of range is brought into it when the field is left. */
function slider(app, name, { min, max, step }, change) {
    const attributes = { min, max, step, value: app.settings[name] };
    const infoId = `info-${name}`;
    const range = element("input", { type: "range", "aria-label": name, "aria-describedby": infoId, ...attributes });
    const number = element("input.text-input", { type: "number", "aria-label": words.number(name), ...attributes });
    const use = (text) => {
        const value = Math.min(max, Math.max(min, Number(text)));
        if (text === "" || !Number.isFinite(value)) return;
        change(name, step >= 1 ? Math.round(value) : value);
    };
    const show = () => {
        range.value = app.settings[name];
        number.value = app.settings[name];
    };
    range.addEventListener("input", () => {
        use(range.value);
        show();
    });
    number.addEventListener("input", () => {
        use(number.value);
        range.value = app.settings[name];
    });
    number.addEventListener("change", show);
    const info = element("p.setting-info", { id: infoId }, words[name]);
    return element("div.setting", {}, element("label", {}, element("span.setting-name", {}, name), number), range, info);
}

/** A text field for the seed: empty means random. */
function seedField(app, { max }, change) {
    const input = element("input.text-input", {
        id: "seed",
        type: "text",
        inputmode: "numeric",
        autocomplete: "off",
        value: app.settings.seed ?? "",
        placeholder: words.seedRandom,
        "aria-describedby": "info-seed",
    });
    const info = element("p.setting-info", { id: "info-seed" }, words.seedInfo);
    input.addEventListener("input", () => {
        const text = input.value.trim();
        const isUsable = text === "" || (/^\d+$/.test(text) && Number(text) <= max);
        setAttribute(input, "aria-invalid", String(!isUsable));
        info.classList.toggle("problem", !isUsable);
        info.textContent = isUsable ? words.seedInfo : words.seedWrong(max);
        if (isUsable) change("seed", text === "" ? null : Number(text));
    });
    return element("div.setting", {}, element("label", { for: "seed" }, element("span.setting-name", {}, words.seed)), input, info);
}

function applyTheme(theme) {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    for (const input of document.querySelectorAll("#settings input[name=theme]")) input.checked = input.value === theme;
}

function themeChoice(app) {
    const current = document.documentElement.dataset.theme ?? "auto";
    const choose = (theme) => {
        applyTheme(theme);
        app.store.put("values", { id: "theme", value: theme });
    };
    const option = (theme) => {
        const input = element("input", { type: "radio", name: "theme", value: theme, onchange: () => choose(theme) });
        input.checked = theme === current;
        return element("label.theme-option", {}, input, words[theme]);
    };
    return element("fieldset.setting", {}, element("legend", {}, words.theme), THEMES.map(option));
}
