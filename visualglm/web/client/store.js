/** The browser's store: conversations, images and settings in IndexedDB, or in memory where that cannot be used. */

const VERSION = 1;
const TABLES = ["conversations", "images", "values"];

/** Wrap a request of IndexedDB in a promise. */
function finished(request) {
    return new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
}

/** Wrap a transaction of IndexedDB in a promise that is fulfilled when its changes are on disk. */
function completed(transaction) {
    return new Promise((resolve, reject) => {
        transaction.oncomplete = () => resolve();
        transaction.onabort = () => reject(transaction.error ?? new DOMException("aborted", "AbortError"));
    });
}

function openDatabase(name) {
    const request = indexedDB.open(name, VERSION);
    request.onupgradeneeded = () => {
        for (const table of TABLES) request.result.createObjectStore(table, { keyPath: "id" });
    };
    return finished(request);
}

/**
 * Merge two versions of a conversation, so that two tabs that write the same one lose nothing.
 *
 * All nodes of both are kept; of a node that both have, the one that changed last. Everything else is the newer version's.
 */
export function mergeConversations(stored, written) {
    if (!stored) return written;
    const [older, newer] = stored.updated > written.updated ? [written, stored] : [stored, written];
    const nodes = { ...older.nodes };
    for (const [id, node] of Object.entries(newer.nodes)) {
        if (!(id in nodes) || node.updated >= nodes[id].updated) nodes[id] = node;
    }
    return { ...older, ...newer, nodes, chosen: { ...older.chosen, ...newer.chosen } };
}

/** Stores records by id; see `openStore`. */
export class Store {
    /**
     * @param {IDBDatabase|null} database - null keeps everything in memory
     * @param {string} name - of the database; other tabs with the same name are told of changes
     * @param {""|"disabled"|"unavailable"} reason - why records are kept in memory only
     */
    constructor(database, name, reason = "") {
        this.database = database;
        this.reason = reason;
        this.memory = Object.fromEntries(TABLES.map((table) => [table, new Map()]));
        this.listeners = new Set();
        this.onProblem = () => {}; // called with the error of a write that failed; the record is kept in memory
        this.channel = database && "BroadcastChannel" in window ? new BroadcastChannel(name) : null;
        if (this.channel) this.channel.onmessage = (event) => this.listeners.forEach((listener) => listener(event.data));
    }

    /** Whether records survive a reload. */
    get isPersistent() {
        return this.database !== null;
    }

    /** Call `listener` with {table, id} when another tab changed a record; id is null if all changed. */
    onChange(listener) {
        this.listeners.add(listener);
    }

    /** Return a record, undefined if there is none. */
    async get(table, id) {
        if (this.memory[table].has(id) || !this.database) return this.memory[table].get(id);
        return finished(this.database.transaction(table).objectStore(table).get(id));
    }

    /** Return all records of a table, those in memory included. */
    async all(table) {
        const stored = this.database ? await finished(this.database.transaction(table).objectStore(table).getAll()) : [];
        const records = new Map(stored.map((record) => [record.id, record]));
        for (const [id, record] of this.memory[table]) records.set(id, record);
        return [...records.values()];
    }

    /**
     * Write a record. A conversation is merged with the stored one (`mergeConversations`).
     *
     * A write that fails, as when the disk is full, keeps the record in memory and calls `onProblem`.
     *
     * @returns {Promise<Object>} the record as it is stored now
     */
    async put(table, record) {
        if (!this.database) {
            this.memory[table].set(record.id, record);
            return record;
        }
        try {
            const transaction = this.database.transaction(table, "readwrite");
            const done = completed(transaction);
            const records = transaction.objectStore(table);
            const stored = table === "conversations" ? await finished(records.get(record.id)) : undefined;
            const merged = mergeConversations(stored, record);
            records.put(merged);
            await done;
            this.memory[table].delete(record.id);
            this.announce(table, record.id);
            return merged;
        } catch (error) {
            this.memory[table].set(record.id, record);
            this.onProblem(error);
            return record;
        }
    }

    /** Delete a record. */
    async remove(table, id) {
        this.memory[table].delete(id);
        if (!this.database) return;
        const transaction = this.database.transaction(table, "readwrite");
        const done = completed(transaction);
        transaction.objectStore(table).delete(id);
        await done;
        this.announce(table, id);
    }

    /** Delete everything. */
    async clear() {
        for (const records of Object.values(this.memory)) records.clear();
        if (!this.database) return;
        const transaction = this.database.transaction(TABLES, "readwrite");
        const done = completed(transaction);
        for (const table of TABLES) transaction.objectStore(table).clear();
        await done;
        for (const table of TABLES) this.announce(table, null);
    }

    announce(table, id) {
        this.channel?.postMessage({ table, id });
    }
}

/**
 * Open the store of a visitor.
 *
 * @param {string|null} user - the login, which has a store of its own
 * @param {boolean} enabled - false keeps everything in memory
 * @returns {Promise<Store>}
 */
export async function openStore(user, enabled) {
    const name = user ? `visualglm-${user}` : "visualglm";
    if (!enabled) return new Store(null, name, "disabled");
    try {
        return new Store(await openDatabase(name), name);
    } catch {
        return new Store(null, name, "unavailable"); // some private windows, or storage switched off
    }
}
