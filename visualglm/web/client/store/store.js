/** The browser's store: conversations, images and settings in IndexedDB, or in memory where that cannot be used. */

import { mergeConversations } from "./merging.js";

const VERSION = 1;
const TABLES = ["conversations", "images", "values"];
const PATIENCE_MS = 4000; // a database that takes longer to open is not waited for

/** Wrap a request of IndexedDB in a promise. */
function finished(request) {
    return new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
}

/** Wrap a transaction of IndexedDB in a promise that is fulfilled when its changes are on disk. */
function completed(transaction) {
    const done = new Promise((resolve, reject) => {
        transaction.oncomplete = () => resolve();
        transaction.onabort = () => reject(transaction.error ?? new DOMException("aborted", "AbortError"));
    });
    done.catch(() => {}); // whoever awaits it gets the error; if an earlier one was thrown, nobody does
    return done;
}

/**
 * Open the database.
 *
 * @throws {DOMException} "VersionError": a newer page has written it; "TimeoutError": another tab keeps it from being
 *     opened, or the browser does not answer; others: the browser has no storage for this page
 */
function openDatabase(name) {
    return new Promise((resolve, reject) => {
        let isLate = false;
        const giveUp = () => {
            isLate = true;
            reject(new DOMException("the database does not open", "TimeoutError"));
        };
        const timer = setTimeout(giveUp, PATIENCE_MS);
        const request = indexedDB.open(name, VERSION);
        request.onblocked = giveUp;
        request.onupgradeneeded = () => {
            for (const table of TABLES) request.result.createObjectStore(table, { keyPath: "id" });
        };
        request.onerror = () => reject(request.error);
        request.onsuccess = () => {
            clearTimeout(timer);
            if (isLate) request.result.close();
            else resolve(request.result);
        };
    });
}

/** Stores records by id; see `openStore`. */
export class Store {
    /**
     * @param {IDBDatabase|null} database - null keeps everything in memory
     * @param {string} name - of the database; other tabs with the same name are told of changes
     * @param {""|"disabled"|"unavailable"|"outdated"|"blocked"} reason - why records are kept in memory only: the server
     *     wants it so; the browser has no storage; a newer page uses it; another tab keeps it from being opened
     */
    constructor(database, name, reason = "") {
        this.database = null;
        this.name = name;
        this.reason = reason;
        this.memory = Object.fromEntries(TABLES.map((table) => [table, new Map()]));
        this.listeners = new Set();
        this.onProblem = () => {}; // called with the error of a read or write that failed; written records stay in memory
        this.onClosing = () => {}; // called before the database is closed for a newer page
        this.channel = database && "BroadcastChannel" in window ? new BroadcastChannel(name) : null;
        if (this.channel) this.channel.onmessage = (event) => this.listeners.forEach((listener) => listener(event.data));
        if (database) this.use(database);
    }

    /** Use an open database until the browser or a newer page wants it to be closed. */
    use(database) {
        this.database = database;
        database.onversionchange = ({ newVersion }) => {
            this.onClosing();
            this.leave(newVersion === null ? "unavailable" : "outdated");
            database.close(); // waits for the writes that have begun
        };
        database.onclose = () => this.leave("unavailable");
    }

    leave(reason) {
        this.database = null;
        this.reason = reason;
        this.onProblem(new DOMException("the database was closed", "InvalidStateError"));
    }

    /** Whether records survive a reload. */
    get isPersistent() {
        return this.database !== null;
    }

    /** Call `listener` with each message of another tab: {table, id} of a record that changed, or what `tell` sent. */
    onMessage(listener) {
        this.listeners.add(listener);
    }

    /** Send a message to the other tabs. */
    tell(message) {
        this.channel?.postMessage(message);
    }

    /** Return a record, undefined if there is none. */
    async get(table, id) {
        if (this.memory[table].has(id)) return this.memory[table].get(id);
        return this.read(table, (records) => records.get(id));
    }

    /** Return all records of a table, those in memory included. */
    async all(table) {
        const stored = (await this.read(table, (records) => records.getAll())) ?? [];
        const records = new Map(stored.map((record) => [record.id, record]));
        for (const [id, record] of this.memory[table]) records.set(id, record);
        return [...records.values()];
    }

    /** Return the ids of a table's records. */
    async ids(table) {
        return [...((await this.read(table, (records) => records.getAllKeys())) ?? []), ...this.memory[table].keys()];
    }

    async read(table, request) {
        if (!this.database) return undefined;
        try {
            return await finished(request(this.database.transaction(table).objectStore(table)));
        } catch (error) {
            this.onProblem(error);
            return undefined;
        }
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
            this.tell({ table, id: record.id });
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
        if (await this.change([table], (transaction) => transaction.objectStore(table).delete(id))) this.tell({ table, id });
    }

    /** Delete everything. The other tabs are told that all records of all tables (null) are gone. */
    async clear() {
        for (const records of Object.values(this.memory)) records.clear();
        await this.change(TABLES, (transaction) => TABLES.forEach((table) => transaction.objectStore(table).clear()));
        this.tell({ table: null, id: null });
    }

    async change(tables, work) {
        if (!this.database) return false;
        try {
            const transaction = this.database.transaction(tables, "readwrite");
            const done = completed(transaction);
            work(transaction);
            await done;
            return true;
        } catch (error) {
            this.onProblem(error);
            return false;
        }
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
    } catch (error) {
        const reasons = { VersionError: "outdated", TimeoutError: "blocked" };
        return new Store(null, name, reasons[error.name] ?? "unavailable"); // as in some private windows
    }
}
