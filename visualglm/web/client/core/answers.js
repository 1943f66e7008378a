/** Ask questions: send the image if the server needs it, stream the answer into a node, store the result. */

import { ApiError, streamAnswer, uploadImage } from "./api.js";
import { addNode, chooseBranch, newId, promptTurns, shownNodes } from "./conversation.js";

const REDRAW_MS = 50;
const STORE_MS = 2000; // a growing answer is stored this often

/**
 * Ask a question in a conversation. The answer grows in a new node, which is shown.
 *
 * @param {App} app
 * @param {string} question
 * @param {Object} [options]
 * @param {string|null} [options.parent] - id of the node that precedes it; null for the first question
 * @param {number} [options.model] - index of the model: 1 is the compared one
 * @param {Object} [options.settings] - sampling settings, otherwise those of the page
 * @param {Object} [options.conversation] - otherwise the open one
 * @param {Object} [options.details] - further properties of the node
 * @returns {Promise<Object>} the node, when its answer has ended (also if it was stopped or failed)
 */
export async function ask(app, question, options = {}) {
    const { conversation = app.conversation, parent = null, model = 0, details = {} } = options;
    const settings = { ...app.settings, ...options.settings };
    const turns = promptTurns(conversation, parent);
    const node = addNode(conversation, parent, question, { settings, model, tab: app.tabs.id, ...details });
    const controller = new AbortController();
    app.running.set(node.id, controller);
    app.opened.set(conversation.id, conversation);
    app.emit("change");
    app.emit("running");
    const draw = drawer(app, conversation, node);
    try {
        const request = { turns, question, settings, model };
        for await (const event of answerEvents(app, conversation.imageId, request, controller.signal)) {
            applyEvent(node, event);
            draw();
        }
    } catch (error) {
        if (controller.signal.aborted) node.status = "stopped";
        else Object.assign(node, { status: "failed", error: error.message });
    } finally {
        if (node.status === "running") node.status = "stopped";
        Object.assign(node, { phase: null, updated: Date.now() });
        conversation.updated = node.updated;
        app.running.delete(node.id);
        if (conversation !== app.conversation && !app.runsIn(conversation)) app.opened.delete(conversation.id);
        draw.now();
        app.emit("running");
        app.saveNow(conversation);
    }
    return node;
}

/**
 * Ask the next question of the open conversation: once, or on both sides while the visitor compares.
 *
 * @param {App} app - its `comparison` is null, or {sides: [{model, settings}, {model, settings}]}
 * @param {string} question
 * @returns {Promise<Object[]>} the nodes, when their answers have ended
 */
export async function askNext(app, question) {
    const parent = shownNodes(app.conversation).at(-1)?.id ?? null;
    return app.comparison ? askPair(app, question, parent, app.comparison.sides) : [await ask(app, question, { parent })];
}

/**
 * Ask a question twice, to compare the answers. The nodes are branches with the same `pair`; the first one is shown.
 *
 * @param {App} app
 * @param {string} question
 * @param {string|null} parent - id of the node that precedes both
 * @param {Array<{model: number, settings: Object, details: Object}>} sides - see `ask`
 * @returns {Promise<Object[]>} both nodes, when their answers have ended
 */
export function askPair(app, question, parent, sides) {
    const { conversation } = app;
    const pair = newId();
    const created = Date.now();
    const answers = sides.map(({ model, settings, details }, side) =>
        ask(app, question, { parent, model, settings, details: { ...details, pair, side, created: created + side } }),
    );
    const [first] = Object.values(conversation.nodes).filter((node) => node.pair === pair);
    chooseBranch(conversation, first);
    return Promise.all(answers);
}

/**
 * Stream the events of an answer. If the server has lost the image, as after a restart, it is sent again.
 *
 * @param {App} app
 * @param {string|Object|null} image - id of a record in the store; or {blob}, which is not stored
 * @param {Object} request - {turns, question, settings, model}
 * @param {AbortSignal} signal
 */
export async function* answerEvents(app, image, request, signal) {
    const isStored = typeof image === "string";
    const send = async (record) =>
        isStored ? app.images.upload(record) : Object.assign(record, { serverId: (await uploadImage(record.blob, { signal })).id });
    let record = isStored ? await aborted(signal, app.images.uploaded(image)) : image;
    if (record && !record.serverId) record = await aborted(signal, send(record));
    try {
        yield* streamAnswer({ ...request, image: record?.serverId ?? null }, signal);
    } catch (error) {
        if (!(error instanceof ApiError) || error.code !== "unknown_image" || !record) throw error;
        record = await aborted(signal, send(record));
        yield* streamAnswer({ ...request, image: record.serverId }, signal);
    }
}

/** Wait for a promise, or until the signal is aborted. */
function aborted(signal, promise) {
    return new Promise((resolve, reject) => {
        const abort = () => reject(new DOMException("aborted", "AbortError"));
        if (signal.aborted) abort();
        signal.addEventListener("abort", abort, { once: true });
        promise.then(resolve, reject);
    });
}

/** Change a node by an event of the server. */
export function applyEvent(node, event) {
    if (event.type === "start") node.seed = event.seed;
    else if (event.type === "phase") node.phase = event;
    else if (event.type === "text") {
        node.answer += event.text;
        node.phase = { phase: "text", tokens: event.tokens, seconds: event.seconds };
    } else if (event.type === "done") {
        node.status = event.finish_reason === "length" ? "truncated" : "done";
        node.stats = event;
    } else if (event.type === "error") Object.assign(node, { status: "failed", error: event.message });
}

/** Return a function that announces changes of a node, at most every REDRAW_MS, and stores them now and then. */
function drawer(app, conversation, node) {
    let timer = null;
    let stored = Date.now();
    const now = () => {
        clearTimeout(timer);
        timer = null;
        if (conversation === app.conversation) app.emit("node", node);
        if (Date.now() - stored > STORE_MS) {
            stored = Date.now();
            node.updated = stored;
            app.saveNow(conversation);
        }
    };
    const draw = () => {
        timer ??= setTimeout(now, REDRAW_MS);
    };
    draw.now = now;
    return draw;
}
