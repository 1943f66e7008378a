/** The field for questions, and the button that sends or stops. */

import { askNext } from "../core/answers.js";
import { shownNodes } from "../core/conversation.js";
import { toast } from "../core/dialogs.js";
import { element, icon, replaceChildren, setAttribute } from "../core/dom.js";
import { formatNumber, onLanguage, texts } from "../core/i18n.js";

const SHOW_COUNT_FROM = 0.9; // of the limit
const words = texts({
    en: {
        send: "Send",
        stop: "Stop (Escape)",
        hint: "Enter sends, Shift+Enter starts a new line",
        running: "The answer is still being written. Escape stops it; what you typed stays here.",
        count: (used, limit) => `${used} of ${limit} characters`,
        over: (over, limit) => `A question has at most ${limit} characters: shorten this one by ${over}.`,
        turns: (limit) => `This conversation has ${limit} rounds, the most there can be. Start a new one.`,
    },
    zh: {
        send: "发送",
        stop: "停止（Esc）",
        hint: "按回车发送，Shift+回车换行",
        running: "回答还没有写完。按 Esc 可停止；你输入的内容会保留在这里。",
        count: (used, limit) => `${used} / ${limit} 个字符`,
        over: (over, limit) => `问题最多 ${limit} 个字符，请删去 ${over} 个。`,
        turns: (limit) => `此对话已有 ${limit} 轮，达到上限。请开始新的对话。`,
    },
});

/** Build the field: Enter sends, an empty field does nothing, and a running answer is never discarded. */
export function buildComposer(app) {
    const form = document.getElementById("composer");
    const field = document.getElementById("question");
    const button = document.getElementById("send");
    const hint = element("p.composer-hint", { id: "composer-hint", role: "status" }, element("span", {}, () => words.hint));
    form.after(hint);
    field.setAttribute("aria-describedby", hint.id);
    let notice = "";

    const isRunning = () => app.runsIn(app.conversation);
    const excess = () => field.value.trim().length - app.info.limits.question;

    function draw() {
        const running = isRunning();
        button.type = running ? "button" : "submit";
        setAttribute(button, "aria-label", () => (isRunning() ? words.stop : words.send));
        setAttribute(button, "title", () => (isRunning() ? words.stop : words.send));
        replaceChildren(button, icon(running ? "stop" : "send"));
        button.disabled = !running && (!field.value.trim() || excess() > 0);
        field.style.height = "auto";
        field.style.height = `${field.scrollHeight}px`;
        drawHint();
    }

    function drawHint() {
        const { question: limit } = app.info.limits;
        const used = field.value.trim().length;
        const over = excess();
        field.setAttribute("aria-invalid", over > 0 ? "true" : "false");
        hint.classList.toggle("problem", over > 0);
        if (over > 0) hint.textContent = words.over(formatNumber(over), formatNumber(limit));
        else if (notice && isRunning()) hint.textContent = words[notice];
        else if (used > SHOW_COUNT_FROM * limit) hint.textContent = words.count(formatNumber(used), formatNumber(limit));
        else hint.textContent = words.hint;
    }

    function send() {
        const question = field.value.trim();
        if (!question || excess() > 0) return;
        if (isRunning()) {
            notice = "running";
            drawHint();
            return;
        }
        if (shownNodes(app.conversation).length >= app.info.limits.turns) {
            toast(words.turns(formatNumber(app.info.limits.turns)), { kind: "error" });
            return;
        }
        field.value = "";
        app.setDraft("");
        askNext(app, question);
    }

    form.addEventListener("submit", (event) => {
        event.preventDefault();
        send();
    });
    button.addEventListener("click", (event) => {
        if (!isRunning()) return;
        event.preventDefault();
        app.stop();
        field.focus();
    });
    field.addEventListener("keydown", (event) => {
        // An Enter that ends the input of a Chinese word does not send.
        if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
        event.preventDefault();
        send();
    });
    field.addEventListener("input", () => {
        app.setDraft(field.value);
        draw();
    });
    const showDraft = () => {
        if (field.value !== app.conversation.draft) field.value = app.conversation.draft;
        draw();
    };
    app.on("open", showDraft);
    app.on("change", showDraft);
    app.on("running", () => {
        if (!isRunning()) notice = "";
        draw();
    });
    onLanguage(drawHint);
    draw();
}
