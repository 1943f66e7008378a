/** Requests to the page's server. All addresses are relative, so that the page works behind any prefix of a proxy. */

import { language, texts } from "./i18n.js";

const words = texts({
    en: {
        offline: "The server cannot be reached. Check the connection, then try again.",
        broken: (status) => `The server answered with an error (${status}). Try again.`,
        loggedOut: "You are logged out. Reload the page and log in.",
    },
    zh: {
        offline: "无法连接服务器。请检查网络后重试。",
        broken: (status) => `服务器返回了错误（${status}）。请重试。`,
        loggedOut: "登录已失效。请刷新页面并重新登录。",
    },
});

/** An error that the server sent, or a connection that failed. `message` is in the language of the page. */
export class ApiError extends Error {
    /** @param {string} code - as "busy", "unknown_image", "offline" */
    constructor(code, message, status = 0) {
        super(message);
        this.code = code;
        this.status = status;
    }
}

async function request(path, options = {}) {
    let response;
    try {
        const separator = path.includes("?") ? "&" : "?";
        response = await fetch(`page/${path}${separator}lang=${language()}`, options);
    } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ApiError("offline", words.offline);
    }
    if (response.ok) return response;
    throw failure(response.status, await response.json().catch(() => ({})));
}

/** Return the error that a response stands for. */
function failure(status, { error }) {
    const code = error?.code ?? (status === 401 ? "not_logged_in" : "internal");
    const message = code === "not_logged_in" ? words.loggedOut : error?.message;
    return new ApiError(code, message ?? words.broken(status), status);
}

function postJson(path, body, signal) {
    const headers = { "Content-Type": "application/json" };
    return request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/**
 * Send an image file; return {id, width, height, preview}.
 *
 * @param {Blob} blob
 * @param {Object} [options]
 * @param {AbortSignal} [options.signal]
 * @param {Function} [options.onProgress] - called with the fraction that was sent
 */
export function uploadImage(blob, { signal, onProgress = () => {} } = {}) {
    return new Promise((resolve, reject) => {
        const transfer = new XMLHttpRequest(); // fetch does not report the progress of an upload
        transfer.open("POST", `page/images?lang=${language()}`);
        transfer.responseType = "json";
        transfer.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 0);
        transfer.onload = () => {
            if (transfer.status === 200 && transfer.response) resolve(transfer.response);
            else reject(failure(transfer.status, transfer.response ?? {}));
        };
        transfer.onerror = () => reject(new ApiError("offline", words.offline));
        transfer.onabort = () => reject(new DOMException("aborted", "AbortError"));
        signal?.addEventListener("abort", () => transfer.abort(), { once: true });
        transfer.send(blob);
    });
}

/** Append a vote to the server's file; return {count}. */
export async function sendVote(vote) {
    return (await postJson("votes", vote)).json();
}

/** Explain an answer; return {rows, columns, map, tokens}, see explanations.py of the server. */
export async function explainAnswer(answer) {
    return (await postJson("explanations", { language: language(), ...answer })).json();
}

/** Draw a random scene; return {seed, image, questions}. */
export async function drawScene(seed) {
    return (await request(`scene?seed=${seed}`)).json();
}

/**
 * Ask a question; yield the events of the answer. Aborting `signal` stops the answer on the server, too.
 *
 * @param {Object} question - {image, turns, question, settings, model}
 * @param {AbortSignal} signal
 */
export async function* streamAnswer(question, signal) {
    const response = await postJson("answers", { language: language(), ...question }, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = "";
    let isFinished = false;
    try {
        while (true) {
            const { done, value } = await reader.read();
            if (done) break;
            const lines = (pending + value).split("\n");
            pending = lines.pop();
            for (const line of lines.filter(Boolean)) {
                const event = JSON.parse(line);
                isFinished ||= event.type === "done" || event.type === "error";
                yield event;
            }
        }
    } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ApiError("offline", words.offline);
    } finally {
        reader.cancel().catch(() => {});
    }
    if (!isFinished) throw new ApiError("offline", words.offline);
}
