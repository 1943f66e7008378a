/** What the tabs of a browser tell each other, and which conversation each of them shows. */

import { newId } from "../core/conversation.js";
import { applyJournals } from "./journal.js";

const REPLY_MS = 700; // a tab that writes an answer replies within this time
const CHECK_MS = 3000; // an answer that another tab writes is asked about this often

/** Call `work` with sessionStorage, or return undefined where the browser forbids it. */
function withSession(work) {
    try {
        return work(window.sessionStorage);
    } catch {
        return undefined;
    }
}

/** The messages between the tabs that share a store. */
export class Tabs {
    /** @param {App} app */
    constructor(app) {
        this.app = app;
        this.key = `tab:${app.store.name}`;
        const stored = app.store.isPersistent ? withSession((storage) => JSON.parse(storage.getItem(this.key))) : null;
        this.id = stored?.id ?? newId(); // survives a reload, so that a tab knows its own interrupted answers
        this.shown = stored?.shown ?? null; // id of the conversation that this tab showed before a reload
        this.draft = stored?.draft ?? null; // what was typed in that conversation
        this.alive = new Set(); // ids of nodes whose answers other tabs write
        this.isChecking = false;
        app.store.onMessage((message) => this.receive(message));
    }

    /** Remember which conversation this tab shows, and what is typed in it. */
    remember({ id, draft }) {
        if (!this.app.store.isPersistent) return;
        withSession((storage) => storage.setItem(this.key, JSON.stringify({ id: this.id, shown: id, draft })));
    }

    /** Tell the other tabs that this one may be closed, so that they merge its journal. */
    leave() {
        this.app.store.tell({ left: [...this.app.running.keys()] });
    }

    receive(message) {
        const { app } = this;
        if (message.table === null) app.forget();
        else if (message.table === "conversations") app.reload(message.id);
        else if (message.whoWrites) this.reply(message.whoWrites);
        else if (message.writes) message.writes.forEach((id) => this.alive.add(id));
        else if (message.left) this.takeOver(message.left);
    }

    async takeOver(nodeIds) {
        const { app } = this;
        await applyJournals(app.store);
        if (this.stop(app.conversation, (node) => nodeIds.includes(node.id))) app.changed(app.conversation);
    }

    reply(conversationId) {
        const { app } = this;
        const conversation = app.opened.get(conversationId);
        const own = Object.keys(conversation?.nodes ?? {}).filter((id) => app.running.has(id));
        if (!own.length) return;
        app.store.tell({ writes: own });
        app.saveRunning(conversation);
    }

    /**
     * Mark answers as stopped that no tab writes any more, because it was closed or reloaded.
     *
     * @param {Object} conversation - one that is shown here
     */
    async endInterrupted(conversation) {
        const { app } = this;
        const canAsk = app.store.channel !== null;
        this.stop(conversation, (node) => !canAsk || !node.tab || node.tab === this.id);
        if (this.isChecking || !this.interrupted(conversation).length) return;
        this.isChecking = true;
        this.alive.clear();
        app.store.tell({ whoWrites: conversation.id });
        await pause(REPLY_MS);
        if (this.stop(conversation, (node) => !this.alive.has(node.id))) app.changed(conversation);
        await pause(CHECK_MS);
        this.isChecking = false;
        this.endInterrupted(app.conversation);
    }

    /** Mark interrupted nodes as stopped if `condition` holds; return whether there are any. */
    stop(conversation, condition) {
        const nodes = this.interrupted(conversation).filter(condition);
        // A tab that still writes one after all stores it with a later time.
        for (const node of nodes) Object.assign(node, { status: "stopped", phase: null, updated: node.updated + 1 });
        if (nodes.length) this.app.save(conversation);
        return nodes.length > 0;
    }

    /** Return the nodes of a conversation whose answers are running, but not in this tab. */
    interrupted(conversation) {
        return Object.values(conversation.nodes).filter((node) => node.status === "running" && !this.app.running.has(node.id));
    }
}

function pause(milliseconds) {
    return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
