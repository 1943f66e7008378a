/** The words about an answer: the phase of a running one, numbers and notes of an ended one. */

import { isComplete } from "../core/conversation.js";
import { formatNumber, texts } from "../core/i18n.js";

const ELAPSED_FROM_S = 2; // shorter waits show no seconds
const plural = (count, noun) => `${formatNumber(count)} ${noun}${count === 1 ? "" : "s"}`;
const words = texts({
    en: {
        upload: "sending the image",
        waiting: (ahead) => (ahead ? `waiting: ${formatNumber(ahead)} before you` : "waiting"),
        image: "reading the image",
        prompt: "reading the prompt",
        tokens: (count) => plural(count, "token"),
        seconds: (seconds) => `${formatNumber(seconds, 1)} s`,
        wholeSeconds: (seconds) => `${formatNumber(seconds)} s`,
        speed: (speed) => `${formatNumber(speed, 1)} tokens/s`,
        seed: (seed) => `seed ${seed}`,
        comma: ", ",
        dropped: (count) => `The model no longer sees the ${count === 1 ? "oldest turn" : `${count} oldest turns`}.`,
        stopped: "Stopped. This answer is not part of the conversation.",
        truncated: "The length limit (max_length) is reached; the answer is incomplete.",
        failed: "This answer is not part of the conversation.",
        seedAgain: "The fixed seed would give the same answer, so another seed was used.",
        greedyAgain: "At temperature 0 the answer stays the same. Raise the temperature for another one.",
    },
    zh: {
        upload: "正在发送图片",
        waiting: (ahead) => (ahead ? `排队中：前面还有 ${formatNumber(ahead)} 个` : "排队中"),
        image: "正在看图片",
        prompt: "正在读提示词",
        tokens: (count) => `${formatNumber(count)} 个 token`,
        seconds: (seconds) => `${formatNumber(seconds, 1)} 秒`,
        wholeSeconds: (seconds) => `${formatNumber(seconds)} 秒`,
        speed: (speed) => `每秒 ${formatNumber(speed, 1)} 个`,
        seed: (seed) => `seed ${seed}`,
        comma: "，",
        dropped: (count) => `最早的 ${count} 轮已不再发给模型。`,
        stopped: "已停止，这个回答不计入对话。",
        truncated: "已达到长度上限（max_length），回答未完。",
        failed: "这个回答不计入对话。",
        seedAgain: "固定的 seed 会得到相同的回答，因此这次使用了另一个 seed。",
        greedyAgain: "temperature 为 0 时回答不变。要得到不同的回答，请调高 temperature。",
    },
});

/**
 * Return what a running answer is doing, "" if nothing is known yet.
 *
 * @param {Object} node
 * @param {boolean} isUploading - whether the image is still being sent to the server
 */
export function phaseText(node, isUploading) {
    const { phase } = node;
    if (phase?.phase === "text") return progressText(phase);
    const name = phase?.phase ?? (isUploading ? "upload" : "");
    if (!name) return "";
    const text = name === "waiting" ? words.waiting(phase.ahead) : words[name];
    const elapsed = (Date.now() - node.created) / 1000;
    return elapsed < ELAPSED_FROM_S ? text : text + words.comma + words.wholeSeconds(Math.floor(elapsed));
}

/** The server knows no number of tokens of some models. */
function progressText({ tokens, seconds }) {
    const speed = tokens && seconds > 0 ? tokens / seconds : null;
    return numberTexts(tokens, seconds, speed).join(words.comma);
}

function numberTexts(tokens, seconds, speed) {
    const isKnown = (number) => number !== null && number !== undefined;
    const parts = [
        [tokens, words.tokens],
        [seconds, words.seconds],
        [speed, words.speed],
    ];
    return parts.filter(([number]) => isKnown(number)).map(([number, text]) => text(number));
}

/** Return the numbers of an ended answer as texts: tokens, time, speed, seed; [] if there are none. */
export function statisticsTexts({ stats }) {
    if (!stats) return [];
    const parts = numberTexts(stats.tokens, stats.seconds, stats.tokens_per_s);
    return stats.seed === null || stats.seed === undefined ? parts : [...parts, words.seed(stats.seed)];
}

/** Return the notes below an ended answer as {text, kind}: kind is "info", "warning" or "error". */
export function noteTexts(node) {
    const notes = [];
    if (node.status === "failed") notes.push({ text: node.error, kind: "error" }, { text: words.failed, kind: "error" });
    else if (node.status !== "done") notes.push({ text: words[node.status], kind: "warning" });
    if (node.stats?.dropped_turns) notes.push({ text: words.dropped(node.stats.dropped_turns), kind: "info" });
    if (isComplete(node) && node.repeats) notes.push({ text: words[`${node.repeats}Again`], kind: "info" });
    return notes;
}
