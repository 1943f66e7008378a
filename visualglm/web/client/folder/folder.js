/** A folder of images: one question for all, a table that fills, and its answers as a file. */

import { askDialog, toast } from "../core/dialogs.js";
import { append, element, icon, iconButton, refreshTexts, replaceChildren } from "../core/dom.js";
import { formatNumber, onLanguage } from "../core/i18n.js";
import { fileName } from "../files/exporting.js";
import { download } from "../files/files.js";
import { FolderJob } from "./folder_job.js";
import { FolderTable } from "./folder_table.js";
import { words } from "./folder_words.js";
import { toCsv, toJsonLines } from "./tables.js";

const IMAGE_NAME = /\.(png|jpe?g|gif|webp|bmp|tiff?|heic|heif|avif|jfif)$/i;
const DRAW_MS = 200;
const MINUTE_MS = 60_000;

/** Build the view of the folder, which takes the place of the conversation, and its button. */
export function buildFolder(app) {
    new FolderView(app);
}

class FolderView {
    constructor(app) {
        this.app = app;
        this.section = document.getElementById("folder");
        this.table = new FolderTable();
        this.timer = null;
        this.job = new FolderJob(app, {
            onRow: (row) => this.table.update(row),
            onRows: () => this.drawRows(),
            onChange: () => this.drawSoon(),
            onPause: (error) => toast(words.paused(error.message), { kind: "error", action: this.showAction() }),
            onEnd: () => this.ended(),
        });
        this.build();
        this.listen();
        this.job.restore();
    }

    build() {
        this.badge = element("span.folder-badge", { hidden: true });
        this.button = iconButton("folder", () => this.buttonLabel(), { id: "folder-button", "aria-expanded": "false", "aria-controls": "folder" });
        this.button.style.order = 4;
        this.button.append(this.badge);
        document.getElementById("tools").append(this.button);
        const back = element("button.button", { type: "button", "aria-label": () => words.backLabel, onclick: () => this.show(false) }, icon("previous"), () => words.back);
        this.empty = element("p.folder-empty", {}, icon("folder"), () => words.drop);
        append(this.section, [
            element("header.folder-header", {}, element("h2", { tabindex: "-1" }, () => words.title), back),
            element("p.folder-intro", {}, () => words.intro),
            this.buildSources(),
            this.buildQuestion(),
            this.buildActions(),
            this.empty,
            this.table.node,
        ]);
    }

    buildSources() {
        const chooser = (label, iconName, attributes) => {
            const input = element("input", { type: "file", hidden: true, tabindex: "-1", multiple: true, "aria-label": label, ...attributes });
            input.addEventListener("change", () => {
                this.take([...input.files]);
                input.value = "";
            });
            const button = element("button.button", { type: "button", onclick: () => input.click() }, icon(iconName), label);
            return [button, input];
        };
        const canChooseFolder = "webkitdirectory" in HTMLInputElement.prototype;
        return element(
            "div.folder-sources",
            {},
            chooser(() => words.chooseImages, "image", { id: "folder-images", accept: "image/*" }),
            canChooseFolder && chooser(() => words.chooseFolder, "folder", { id: "folder-directory", webkitdirectory: true }),
        );
    }

    buildQuestion() {
        this.field = element("textarea.text-input", {
            id: "folder-question",
            rows: 2,
            maxlength: this.app.info.limits.question,
            placeholder: () => words.question,
            "aria-label": () => words.question,
            oninput: () => this.draw(),
        });
        this.main = element("button.button.primary", { type: "button", id: "folder-start", onclick: () => this.startOrStop() });
        return element("div.folder-ask", {}, this.field, this.main);
    }

    buildActions() {
        const button = (id, label, iconName, onclick) =>
            element("button.button", { type: "button", id, onclick }, icon(iconName), label);
        this.progress = element("progress", { max: 1, "aria-label": () => words.progress });
        this.status = element("p.folder-status");
        this.retry = button("folder-retry", () => words.retry(formatNumber(this.job?.counts().failed ?? 0)), "retry", () => this.retryFailed());
        this.csv = button("folder-csv", () => words.csv, "download", () => this.save("csv"));
        this.lines = button("folder-jsonl", () => words.jsonLines, "download", () => this.save("jsonl"));
        this.clear = button("folder-clear", () => words.clear, "delete", () => this.clearRows());
        this.actions = element("div.folder-actions", {}, this.retry, this.csv, this.lines, this.clear);
        this.state = element("div.folder-state", {}, this.progress, this.status, this.actions);
        return this.state;
    }

    listen() {
        const { app } = this;
        this.button.addEventListener("click", () => this.show(this.section.hidden));
        app.on("folder", (files) => {
            this.show(true);
            if (files.length) this.take(files);
        });
        for (const event of ["open", "view"]) app.on(event, () => this.show(false));
        app.on("forget", () => {
            this.job.clear();
            this.field.value = "";
        });
        onLanguage(() => this.drawRows());
        addEventListener("pagehide", () => this.job.storeTimer && this.job.storeNow());
        addEventListener("beforeunload", (event) => this.job.isRunning && event.preventDefault());
        this.field.addEventListener("keydown", (event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
            event.preventDefault();
            if (!this.job.isRunning) this.startOrStop();
        });
    }

    /** Show the folder or the conversation. The folder goes on while the conversation is shown. */
    show(open) {
        if (open !== this.section.hidden) return;
        this.section.hidden = !open;
        document.getElementById("main").classList.toggle("shows-folder", open);
        this.button.setAttribute("aria-expanded", String(open));
        if (open) this.section.querySelector("h2").focus();
        else if (this.button.offsetParent) this.button.focus();
        this.draw();
    }

    buttonLabel() {
        return this.job.isRunning ? `${words.title} ${this.badge.textContent}` : words.title;
    }

    showAction() {
        return this.section.hidden ? { label: words.show, run: () => this.show(true) } : null;
    }

    take(files) {
        const images = files.filter((file) => file.type.startsWith("image/") || IMAGE_NAME.test(file.name));
        const added = this.job.add(images);
        const left = files.length - images.length;
        if (left) toast(words.leftOut(formatNumber(left)));
        else if (!added && images.length) toast(words.known);
        if (!this.field.value) this.field.value = this.job.question;
        this.draw();
    }

    async startOrStop() {
        const { job } = this;
        const question = this.field.value.trim();
        if (job.isRunning) job.stop();
        else if (!question) this.field.focus();
        else if (job.rows.some(({ file }) => file) && (question === job.question || (await this.mayReplace()))) job.start(question);
        this.draw();
    }

    /** Ask before the answers to another question are lost. */
    async mayReplace() {
        if (!this.job.hasAnswers()) return true;
        const actions = [{ value: "yes", label: words.replaceAction, kind: "primary" }];
        return (await askDialog({ title: words.replaceTitle, text: words.replaceText, actions })) === "yes";
    }

    retryFailed() {
        this.job.reset(({ status }) => status === "failed");
        this.field.value = this.job.question;
        if (!this.job.isRunning) this.job.start(this.job.question);
        this.draw();
    }

    async clearRows() {
        const actions = [{ value: "yes", label: words.clearAction, kind: "danger" }];
        const text = words.clearText(formatNumber(this.job.rows.length));
        if (this.job.hasAnswers() && (await askDialog({ title: words.clearTitle, text, actions })) !== "yes") return;
        this.job.clear();
        this.section.querySelector("button").focus();
    }

    save(extension) {
        const { rows, question } = this.job;
        const [write, type] = extension === "csv" ? [toCsv, "text/csv"] : [toJsonLines, "application/jsonl"];
        const folder = rows[0]?.name.includes("/") ? rows[0].name.split("/")[0] : words.fileName;
        const name = fileName(folder, extension);
        download(write(rows, question), name, type);
        toast(words.saved(name));
    }

    ended() {
        const { failed } = this.job.counts();
        const text = failed ? words.endedWithFailures(formatNumber(failed)) : words.ended;
        toast(text, { kind: failed ? "error" : "info", action: this.showAction() });
    }

    drawRows() {
        if (!this.field.value) this.field.value = this.job.question;
        this.table.setRows(this.job.rows);
        this.draw();
    }

    drawSoon() {
        this.timer ??= setTimeout(() => this.draw(), DRAW_MS);
    }

    draw() {
        clearTimeout(this.timer);
        this.timer = null;
        const { job } = this;
        const counts = job.counts();
        const total = job.rows.length;
        const answered = counts.done + counts.truncated;
        const ready = counts.waiting - counts.missing;
        const isNew = this.field.value.trim() !== job.question;
        this.state.hidden = this.table.node.hidden = total === 0;
        this.empty.hidden = total > 0;
        const label = job.isRunning ? words.stop : answered && ready && !isNew ? words.goOn : words.start;
        replaceChildren(this.main, icon(job.isRunning ? "stop" : "send"), label);
        const canStart = isNew ? job.rows.some(({ file }) => file) : ready > 0;
        this.main.disabled = !job.isRunning && (!this.field.value.trim() || !canStart);
        this.progress.value = total ? (answered + counts.failed) / total : 0;
        this.status.textContent = this.statusText(counts, answered, total);
        this.retry.hidden = !counts.failed || job.isRunning;
        replaceChildren(this.retry, icon("retry"), words.retry(formatNumber(counts.failed)));
        this.csv.disabled = this.lines.disabled = !answered && !counts.failed;
        this.badge.hidden = !job.isRunning;
        this.badge.textContent = `${answered + counts.failed}/${total}`;
        refreshTexts(this.button);
        this.button.classList.toggle("is-running", job.isRunning);
    }

    statusText(counts, answered, total) {
        const parts = [words.count(formatNumber(answered), formatNumber(total))];
        if (counts.failed) parts.push(words.failed(formatNumber(counts.failed)));
        if (counts.missing) parts.push(words.missing(formatNumber(counts.missing)));
        const left = this.job.remaining();
        if (left !== null) parts.push(left < MINUTE_MS ? words.soon : words.left(formatNumber(Math.round(left / MINUTE_MS))));
        return parts.join(" · ");
    }
}
