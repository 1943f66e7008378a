/** Merge versions of a conversation that tabs have written, so that none loses what another has added. */

/**
 * Merge two versions of a conversation.
 *
 * All nodes of both are kept; of a node that both have, the one that changed last. The draft is the one that was
 * typed last. Everything else is the newer version's.
 */
export function mergeConversations(stored, written) {
    if (!stored) return written;
    const [older, newer] = stored.updated > written.updated ? [written, stored] : [stored, written];
    const nodes = { ...older.nodes };
    for (const [id, node] of Object.entries(newer.nodes)) {
        if (!(id in nodes) || node.updated >= nodes[id].updated) nodes[id] = node;
    }
    const { draft, draftUpdated = 0 } = (stored.draftUpdated ?? 0) > (written.draftUpdated ?? 0) ? stored : written;
    return { ...older, ...newer, nodes, chosen: { ...older.chosen, ...newer.chosen }, draft, draftUpdated };
}

/**
 * Take another tab's changes over into a conversation that is shown here; its nodes stay the same objects.
 *
 * The branches that are shown here and the draft stay.
 *
 * @param {Object} conversation - is changed
 * @param {Object} other - the version that the other tab has stored
 * @param {Map} running - the ids of nodes whose answers this tab writes; these stay
 * @returns {boolean} whether anything changed
 */
export function absorbConversation(conversation, other, running) {
    let isChanged = false;
    for (const [id, node] of Object.entries(other.nodes)) {
        const own = conversation.nodes[id];
        if (running.has(id) || (own && own.updated >= node.updated)) continue;
        conversation.nodes[id] = own ? Object.assign(own, node) : node;
        isChanged = true;
    }
    conversation.chosen = { ...other.chosen, ...conversation.chosen };
    if (other.updated > conversation.updated) {
        const { title, imageId, imageName, updated } = other;
        isChanged ||= title !== conversation.title || imageId !== conversation.imageId;
        Object.assign(conversation, { title, imageId, imageName, updated });
    }
    return isChanged;
}
