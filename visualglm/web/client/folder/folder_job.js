/** One question about many images. The browser sends one image after another; the server keeps none. */

import { answerEvents, applyEvent } from "../core/answers.js";
import { ApiError } from "../core/api.js";
import { fileProblem } from "../image/image_intake.js";

const AT_ONCE = 2; // images in flight: one is computed while the next one is sent
const BUSY_MS = 1000; // the first wait for a busy server; doubled each time
const MAX_BUSY_MS = 30_000;
const STORE_MS = 3000;
const KEY = "folder";
const PAUSING = ["offline", "not_logged_in"]; // every further image would fail, too

/**
 * The images of a folder with their answers.
 *
 * A row is {name, size, file, status, answer, error, stats}; status: "waiting", "running", "busy", "done", "truncated"
 * or "failed". After a reload `file` is null until the same files are added again.
 */
export class FolderJob {
    /**
     * @param {App} app
     * @param {{onRow: Function, onRows: Function, onChange: Function, onPause: Function, onEnd: Function}} events - a row
     *     changed; rows were added or removed; counts or the state changed; the job paused by itself (with the error);
     *     all rows are answered
     */
    constructor(app, events) {
        this.app = app;
        this.events = events;
        this.rows = [];
        this.question = ""; // the answers of the rows belong to it
        this.run = null; // an object for each start, null while nothing runs
        this.controllers = new Set();
        this.started = 0; // when it was started last
        this.answered = 0; // since then
        this.storeTimer = null;
    }

    /** Whether images are being sent. */
    get isRunning() {
        return this.run !== null;
    }

    /** Take over what was stored before a reload. */
    async restore() {
        const stored = await this.app.store.get("values", KEY);
        if (!stored || this.rows.length) return;
        this.question = stored.question;
        this.rows = stored.rows.map((row) => ({ ...row, file: null }));
        this.events.onRows();
    }

    /** Store the table without the images. */
    store() {
        this.storeTimer ??= setTimeout(() => this.storeNow(), STORE_MS);
    }

    storeNow() {
        clearTimeout(this.storeTimer);
        this.storeTimer = null;
        const isAnswered = ({ status }) => status === "done" || status === "truncated" || status === "failed";
        const rows = this.rows.map(({ file, phase, ...row }) => (isAnswered(row) ? row : { ...row, status: "waiting", answer: "" }));
        return this.app.store.put("values", { id: KEY, question: this.question, rows });
    }

    /** Add image files, in the order of their names. A file that is already there is not added again. */
    add(files) {
        const known = new Map(this.rows.map((row) => [keyOf(row), row]));
        const added = [];
        for (const file of files) {
            const row = { name: file.webkitRelativePath || file.name, size: file.size, file };
            const old = known.get(keyOf(row));
            if (old) old.file ??= file;
            else added.push(Object.assign(row, { status: "waiting", answer: "", error: "", stats: null }));
            if (!old) known.set(keyOf(row), row);
        }
        added.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
        this.rows.push(...added);
        this.store();
        this.events.onRows();
        return added.length;
    }

    /** Remove all rows. */
    clear() {
        this.stop();
        this.rows = [];
        this.question = "";
        clearTimeout(this.storeTimer);
        this.storeTimer = null;
        this.app.store.remove("values", KEY);
        this.events.onRows();
    }

    /** Return how many rows there are of each status, and how many cannot be sent because their files are missing. */
    counts() {
        const counts = { waiting: 0, running: 0, busy: 0, done: 0, truncated: 0, failed: 0, missing: 0 };
        for (const { status, file } of this.rows) {
            counts[status] += 1;
            if (status === "waiting" && !file) counts.missing += 1;
        }
        return counts;
    }

    /** Return the milliseconds until all rows will be answered, null if that is not known. */
    remaining() {
        if (!this.isRunning || !this.answered) return null;
        const { waiting, missing, running, busy } = this.counts();
        return ((Date.now() - this.started) / this.answered) * (waiting - missing + running + busy);
    }

    /** Whether there is an answer that a new question would replace. */
    hasAnswers() {
        return this.rows.some(({ answer }) => answer);
    }

    /** Answer the rows that wait. With another question than before, all rows. */
    start(question) {
        if (question !== this.question) this.reset(() => true);
        this.question = question;
        const run = {};
        this.run = run;
        this.started = Date.now();
        this.answered = 0;
        this.events.onChange();
        const workers = Array.from({ length: AT_ONCE }, () => this.work(run));
        Promise.all(workers).then(() => this.run === run && this.end());
    }

    /** Let rows wait again for which `condition` holds. */
    reset(condition) {
        for (const row of this.rows.filter(condition)) {
            Object.assign(row, { status: "waiting", answer: "", error: "", stats: null });
            this.events.onRow(row);
        }
    }

    /** Stop; rows whose answers are not complete wait again. */
    stop() {
        this.run = null;
        for (const controller of this.controllers) controller.abort();
        this.events.onChange();
    }

    async work(run) {
        while (this.run === run) {
            const row = this.rows.find(({ status, file }) => status === "waiting" && file);
            if (!row) return;
            await this.answer(row);
            this.store();
            this.events.onChange();
        }
    }

    end() {
        this.run = null;
        this.storeNow();
        this.events.onChange();
        this.events.onEnd();
    }

    async answer(row) {
        const controller = new AbortController();
        this.controllers.add(controller);
        try {
            const problem = fileProblem(this.app, row.file, row.name);
            if (problem) throw new ApiError("invalid_image", problem);
            await this.answerPatiently(row, controller.signal);
            this.answered += 1;
        } catch (error) {
            this.fail(row, error, controller.signal);
        } finally {
            this.controllers.delete(controller);
            this.events.onRow(row);
        }
    }

    /** Ask about a row's image; while the server is busy, wait and ask again. */
    async answerPatiently(row, signal) {
        for (let wait = BUSY_MS; ; wait = Math.min(2 * wait, MAX_BUSY_MS)) {
            try {
                await this.ask(row, signal);
                return;
            } catch (error) {
                if (error.code !== "busy" || signal.aborted) throw error;
                Object.assign(row, { status: "busy", answer: "" });
                this.events.onRow(row);
                await pause(wait, signal);
            }
        }
    }

    async ask(row, signal) {
        Object.assign(row, { status: "running", answer: "", error: "" });
        this.events.onRow(row);
        const request = { turns: [], question: this.question, settings: { ...this.app.settings }, model: 0 };
        for await (const event of answerEvents(this.app, { blob: row.file }, request, signal)) {
            if (event.type === "error") throw new ApiError(event.code, event.message);
            applyEvent(row, event);
            this.events.onRow(row);
        }
    }

    fail(row, error, signal) {
        if (signal.aborted || PAUSING.includes(error.code)) {
            Object.assign(row, { status: "waiting", answer: "" });
            if (!signal.aborted && this.isRunning) {
                this.stop();
                this.events.onPause(error);
            }
            return;
        }
        Object.assign(row, { status: "failed", error: error.message });
        this.answered += 1;
    }
}

function keyOf({ name, size }) {
    return `${size} ${name}`;
}

function pause(milliseconds, signal) {
    return new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, milliseconds);
        const abort = () => {
            clearTimeout(timer);
            reject(new DOMException("aborted", "AbortError"));
        };
        signal.addEventListener("abort", abort, { once: true });
    });
}
