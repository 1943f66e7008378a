/** The table of a folder. Its rows are in groups, of which the browser lays out only those in view. */

import { element, replaceChildren } from "../core/dom.js";
import { formatNumber, texts } from "../core/i18n.js";
import { ThumbnailLoader } from "../image/thumbnails.js";

const GROUP_SIZE = 50;
const words = texts({
    en: {
        caption: "Images with their answers",
        image: "Image",
        name: "File",
        answer: "Answer",
        time: "Time",
        state: "State",
        seconds: (seconds) => `${seconds} s`,
        waiting: "waiting",
        missing: "file missing",
        running: "answering…",
        busy: "server busy",
        done: "done",
        truncated: "cut at the limit",
        failed: "failed",
    },
    zh: {
        caption: "图片及其回答",
        image: "图片",
        name: "文件",
        answer: "回答",
        time: "用时",
        state: "状态",
        seconds: (seconds) => `${seconds} 秒`,
        waiting: "等待中",
        missing: "缺少文件",
        running: "正在回答…",
        busy: "服务器繁忙",
        done: "完成",
        truncated: "达到长度上限",
        failed: "失败",
    },
});

/** Shows the rows of a FolderJob. */
export class FolderTable {
    constructor() {
        const columns = ["image", "name", "answer", "time", "state"];
        const heads = columns.map((name) => element("th", { scope: "col", role: "columnheader" }, () => words[name]));
        this.node = element(
            "table.folder-table",
            { role: "table" },
            element("caption.visually-hidden", {}, () => words.caption),
            element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, heads)),
        );
        this.head = this.node.lastChild;
        this.cells = new Map(); // row -> its cells
        this.thumbnails = new ThumbnailLoader(async (row) => row.file ?? undefined);
        this.rowsOf = new WeakMap(); // group -> its rows
        this.seen = new WeakSet(); // rows of groups that were in view
        this.observer = new IntersectionObserver((entries) => {
            for (const { target } of entries.filter((entry) => entry.isIntersecting)) this.show(target);
        });
    }

    /** Show other rows; those that are shown already keep their nodes. */
    setRows(rows) {
        const known = this.cells;
        this.cells = new Map(rows.map((row) => [row, known.get(row) ?? this.buildRow(row)]));
        for (const row of rows) this.update(row);
        this.observer.disconnect();
        const groups = [];
        for (let start = 0; start < rows.length; start += GROUP_SIZE) groups.push(this.buildGroup(rows.slice(start, start + GROUP_SIZE)));
        replaceChildren(this.node, this.node.caption, this.head, groups);
        for (const group of groups) this.observer.observe(group);
    }

    buildGroup(rows) {
        const group = element("tbody", { role: "rowgroup" });
        group.append(...rows.map((row) => this.cells.get(row).node));
        this.rowsOf.set(group, rows);
        return group;
    }

    /** Add the thumbnails of a group that comes into view. */
    show(group) {
        this.observer.unobserve(group);
        for (const row of this.rowsOf.get(group)) {
            this.seen.add(row);
            this.update(row);
        }
    }

    buildRow(row) {
        const cell = (name) => element(`td.folder-cell-${name}`, { role: "cell" });
        const name = element("th.folder-name", { scope: "row", role: "rowheader" }, row.name);
        const image = element("td.folder-image", { role: "cell" });
        const [answer, time, state] = ["answer", "time", "state"].map(cell);
        const node = element("tr", { role: "row" }, image, name, answer, time, state);
        return { node, image, answer, time, state, hasImage: false };
    }

    /** Show a row's state. */
    update(row) {
        const cells = this.cells.get(row);
        if (!cells) return;
        if (row.file && !cells.hasImage && this.seen.has(row)) {
            cells.hasImage = true;
            replaceChildren(cells.image, this.thumbnails.image(row));
        }
        const state = row.status === "waiting" && !row.file ? "missing" : row.status;
        cells.node.dataset.state = state;
        cells.answer.textContent = row.error || row.answer;
        cells.time.textContent = row.stats ? words.seconds(formatNumber(row.stats.seconds, 1)) : "";
        cells.state.textContent = words[state];
    }
}
