/** The line that says which model answers, and a dialog with everything that is known of it. */

import { openDialog } from "../core/dialogs.js";
import { element, replaceChildren } from "../core/dom.js";
import { formatNumber, language, onLanguage, texts } from "../core/i18n.js";

const words = texts({
    en: {
        about: "About the model",
        name: "Model",
        knows: "What it knows",
        parameters: "Parameters",
        device: "Device",
        dtype: "Data type",
        quantization: "Quantized weights",
        image: "Image input",
        compared: "Compared with",
        pixels: (size) => `${size} × ${size} pixels; larger images are made smaller, so fine detail is lost`,
        none: "no",
        million: (count) => `${count} M parameters`,
        billion: (count) => `${count} B parameters`,
    },
    zh: {
        about: "关于模型",
        name: "模型",
        knows: "知识范围",
        parameters: "参数量",
        device: "设备",
        dtype: "数据类型",
        quantization: "量化权重",
        image: "图片输入",
        compared: "比较对象",
        pixels: (size) => `${size} × ${size} 像素；更大的图片会被缩小，细节会丢失`,
        none: "无",
        million: (count) => `${count} M 参数`,
        billion: (count) => `${count} B 参数`,
    },
});

/** Build the line: name, size, device, dtype and quantization; a click shows the details. */
export function buildStatus(app) {
    const { model } = app.info;
    const line = document.getElementById("status");
    const draw = () => {
        const facts = [model.name, countText(model.parameters), model.device, model.dtype, model.quantization];
        const text = facts.filter(Boolean).join(" · ");
        const button = element("button.status-button", { type: "button", title: words.about, onclick: () => showDetails(app) }, text);
        replaceChildren(line, button);
    };
    onLanguage(draw);
    draw();
}

function countText(parameters) {
    if (!parameters) return "";
    const isLarge = parameters >= 1e9;
    const count = formatNumber(parameters / (isLarge ? 1e9 : 1e6), 1);
    return isLarge ? words.billion(count) : words.million(count);
}

function showDetails(app) {
    const { model, models } = app.info;
    const rows = [
        [words.name, model.name],
        [words.knows, model.description[language()]],
        [words.parameters, model.parameters && formatNumber(model.parameters)],
        [words.device, model.device],
        [words.dtype, model.dtype],
        [words.quantization, model.quantization ?? (model.dtype && words.none)],
        [words.image, words.pixels(model.image_size)],
        [words.compared, models[1]],
    ];
    const known = rows.filter(([, value]) => value);
    const list = known.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
    openDialog({ title: words.about, content: [element("dl.facts", {}, list)] });
}
