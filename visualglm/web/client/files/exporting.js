/** A conversation as plain text, Markdown, or one HTML file, and the names of saved files. */

import { isComplete, shownNodes, titleOf } from "../core/conversation.js";
import { language, texts } from "../core/i18n.js";

const MAX_NAME = 60; // characters of a file's name that come from the image's name
const RESERVED = /^(con|prn|aux|nul|com\d|lpt\d)$/i; // names that Windows gives to devices
const words = texts({
    en: {
        question: "Q:",
        answer: "A:",
        image: "Image",
        incomplete: "(not complete)",
        title: "Conversation about an image",
        footer: (model, time) => `Answers by ${model}, which can be wrong. Saved ${time}.`,
    },
    zh: {
        question: "问：",
        answer: "答：",
        image: "图片",
        incomplete: "（不完整）",
        title: "关于图片的对话",
        footer: (model, time) => `回答由 ${model} 生成，可能有误。保存于 ${time}。`,
    },
});

/**
 * Return a file name after the image and the time: "scene 2026-12-01 14-30.json".
 *
 * @param {string} imageName - of the image's file, "" if there is none
 * @param {string} extension - as "json"
 * @param {Date} [time]
 */
export function fileName(imageName, extension, time = new Date()) {
    const safe = imageName
        .replace(/\.(?:png|jpe?g|gif|webp|bmp|tiff?|hei[cf]|avif|jfif)$/i, "")
        .replace(/[\\/:*?"<>|\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]+/gu, " ") // not allowed somewhere, or invisible
        .replace(/\s+/g, " ")
        .replace(/^[.\s]+/, "");
    const short = [...safe].slice(0, MAX_NAME).join("").trim();
    const stem = !short || RESERVED.test(short) ? `conversation${short && ` ${short}`}` : short;
    const two = (number) => String(number).padStart(2, "0");
    const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
    return `${stem} ${day} ${two(time.getHours())}-${two(time.getMinutes())}.${extension}`;
}

/** Return the shown turns that have an answer, each with a note if the answer is not complete. */
function exportedTurns(conversation) {
    return shownNodes(conversation)
        .filter((node) => isComplete(node) || node.answer)
        .map((node) => ({ question: node.question, answer: node.answer, note: isComplete(node) ? "" : words.incomplete }));
}

/** Return the shown branch as plain text. */
export function toText(conversation) {
    const turns = exportedTurns(conversation);
    return turns
        .map(({ question, answer, note }) => `${words.question} ${question}\n\n${words.answer} ${answer}${note && ` ${note}`}\n`)
        .join("\n");
}

/**
 * Return the shown branch as Markdown.
 *
 * @param {Object} conversation
 * @param {string|null} image - data URL
 */
export function toMarkdown(conversation, image) {
    const turns = exportedTurns(conversation).map(
        ({ question, answer, note }) =>
            `**${words.question}** ${question}\n\n**${words.answer}** ${answer}${note && ` *${note}*`}\n`,
    );
    const picture = image ? [`![${markdownText(conversation.imageName || words.image)}](${image})\n`] : [];
    return ["# VisualGLM\n", ...picture, ...turns].join("\n");
}

function markdownText(text) {
    return text.replace(/[[\]\\<>`*_!&]/g, (character) => `\\${character}`).replace(/\s+/g, " ");
}

/** Escape text for HTML, also inside quoted attributes. */
function escape(text) {
    const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
    return text.replace(/[&<>"']/g, (character) => entities[character]);
}

const STYLE = `
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 16px; max-width: 46rem; font: 17px/1.6 system-ui, "PingFang SC", "Microsoft YaHei", sans-serif;
  color: light-dark(#1b1e24, #e8eaee); background: light-dark(#ffffff, #14161a); }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; max-height: 80vh; height: auto; margin: 0 auto 24px; border-radius: 12px; }
article { margin: 0 0 24px; }
.question, .answer { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 8px; padding: 10px 14px; border-radius: 14px; }
.question { margin-left: 12%; background: light-dark(#e6eefc, #1f2d47); }
.answer { margin-right: 12%; background: light-dark(#f4f5f7, #1d2026); }
b { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
small, footer { color: light-dark(#565c68, #a9b0bc); font-size: 0.875rem; }
@media print { .question, .answer { border: 1px solid #999; } }
`;

/**
 * Return the shown branch as one HTML file without scripts, which needs no network.
 *
 * @param {Object} conversation
 * @param {string|null} image - data URL
 * @param {string} model - its name
 */
export function toHtml(conversation, image, model) {
    const title = escape(titleOf(conversation) || words.title);
    const turns = exportedTurns(conversation).map(
        ({ question, answer, note }) => `<article>
<p class="question" dir="auto"><b>${words.question} </b>${escape(question)}</p>
<p class="answer" dir="auto"><b>${words.answer} </b>${escape(answer)}${note && ` <small>${note}</small>`}</p>
</article>`,
    );
    const picture = image ? `<img src="${escape(image)}" alt="${escape(conversation.imageName || words.image)}">` : "";
    const locale = language() === "zh" ? "zh-CN" : "en-GB";
    const time = new Date().toLocaleString(locale, { dateStyle: "long", timeStyle: "short" });
    return `<!DOCTYPE html>
<html lang="${language() === "zh" ? "zh-CN" : "en"}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>${title}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<h1>${title}</h1>
${picture}
${turns.join("\n")}
</main>
<footer>${escape(words.footer(model, time))}</footer>
</body>
</html>
`;
}
