/**
 * What a closing tab could not store: IndexedDB may drop writes that begin when a page is left, localStorage does not.
 *
 * Each tab has a journal of its own. The next page that starts, or another open tab, merges it into the store.
 */

const prefixOf = (store) => `unsaved:${encodeURIComponent(store.name)}:`;

/** Call `work` with localStorage, or do nothing where the browser forbids it, or where it is full. */
function withStorage(work) {
    try {
        return work(window.localStorage);
    } catch {
        return undefined;
    }
}

/** Write the conversations of a tab that may be closed now; [] removes its journal. */
export function writeJournal(store, tab, conversations) {
    if (!store.isPersistent) return;
    withStorage((storage) => {
        const key = prefixOf(store) + tab;
        if (conversations.length) storage.setItem(key, JSON.stringify(conversations));
        else storage.removeItem(key);
    });
}

/**
 * Merge the journals of all closed tabs into the store.
 *
 * @returns {Promise<string|null>} the id of the conversation in them that changed last
 */
export async function applyJournals(store) {
    if (!store.isPersistent) return null;
    let last = null;
    for (const [key, conversations] of readJournals(store)) {
        withStorage((storage) => storage.removeItem(key)); // first, so that two tabs do not apply it twice
        for (const conversation of conversations) {
            await store.put("conversations", conversation);
            if (!last || conversation.updated > last.updated) last = conversation;
        }
    }
    return last?.id ?? null;
}

function readJournals(store) {
    const keys = withStorage((storage) => Object.keys(storage).filter((key) => key.startsWith(prefixOf(store)))) ?? [];
    return keys.map((key) => [key, withStorage((storage) => JSON.parse(storage.getItem(key))) ?? []]);
}

/** Remove the journals of all tabs, as when the visitor wants everything to be forgotten. */
export function removeJournals(store) {
    for (const [key] of readJournals(store)) withStorage((storage) => storage.removeItem(key));
}
