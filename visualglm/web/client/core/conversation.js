/** A conversation as a tree: an image or none, and nodes of a question with its answer. Branches are siblings. */

/** Return a new identifier. (`crypto.randomUUID` does not exist on plain http.) */
export function newId() {
    return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return a new conversation about an image of the store, or without one. */
export function newConversation(imageId = null, imageName = "") {
    const now = Date.now();
    return { id: newId(), title: "", created: now, updated: now, imageId, imageName, nodes: {}, chosen: {}, draft: "" };
}

const FIRST = "start"; // the key of the first place, where nodes have no parent
const byAge = (a, b) => a.created - b.created || (a.id < b.id ? -1 : 1);

/** Return the nodes with the same parent, oldest first: the branches at one place. `parent` is null at the start. */
export function branches(conversation, parent) {
    return Object.values(conversation.nodes)
        .filter((node) => node.parent === parent && !node.removed)
        .sort(byAge);
}

/** Return a Map from each parent's id ("start" for none) to its branches, oldest first. */
function allBranches(conversation) {
    const places = new Map();
    for (const node of Object.values(conversation.nodes)) {
        if (node.removed) continue;
        const place = node.parent ?? FIRST;
        if (!places.has(place)) places.set(place, []);
        places.get(place).push(node);
    }
    for (const choices of places.values()) choices.sort(byAge);
    return places;
}

/**
 * Return the shown nodes from the first to the last, each with the branches at its place: {node, choices}.
 *
 * At each place the chosen branch is shown, otherwise the newest.
 */
export function shownPlaces(conversation) {
    const places = allBranches(conversation);
    const shown = [];
    let place = FIRST;
    while (places.has(place)) {
        const choices = places.get(place);
        const node = choices.find(({ id }) => id === conversation.chosen[place]) ?? choices.at(-1);
        shown.push({ node, choices });
        place = node.id;
    }
    return shown;
}

/** Return the shown nodes from the first to the last. */
export function shownNodes(conversation) {
    return shownPlaces(conversation).map(({ node }) => node);
}

/** Return the nodes from the start to a node, that one included; [] for null. */
export function ancestors(conversation, id) {
    const found = [];
    for (let node = conversation.nodes[id]; node; node = conversation.nodes[node.parent]) found.unshift(node);
    return found;
}

/** Whether later prompts include a node. */
export function isComplete(node) {
    return node.status === "done" || node.status === "truncated";
}

/** Return the turns that the prompt of a question after node `parent` includes. */
export function promptTurns(conversation, parent) {
    return ancestors(conversation, parent).filter(isComplete).map(({ question, answer }) => ({ question, answer }));
}

/** Add a node with a question, show it, and return it. */
export function addNode(conversation, parent, question, details = {}) {
    const now = Date.now();
    const node = {
        id: newId(),
        parent,
        question,
        answer: "",
        status: "running", // then "done", "truncated" (at the length limit), "stopped" or "failed"
        error: "",
        phase: null, // of a running answer: {"phase": "waiting", "ahead": 2}
        stats: null, // of a finished answer: the server's event `done`
        settings: null,
        model: 0,
        created: now,
        updated: now,
        ...details,
    };
    conversation.nodes[node.id] = node;
    conversation.chosen[parent ?? FIRST] = node.id;
    conversation.updated = now;
    return node;
}

/** Show a branch. */
export function chooseBranch(conversation, node) {
    conversation.chosen[node.parent ?? FIRST] = node.id;
    conversation.updated = Date.now();
}

/** Hide a node and what follows it. The record stays, so that another tab's copy does not bring it back. */
export function removeNode(conversation, node) {
    Object.assign(node, { removed: true, updated: Date.now() });
    if (conversation.chosen[node.parent ?? FIRST] === node.id) delete conversation.chosen[node.parent ?? FIRST];
    conversation.updated = Date.now();
}

/** Show a removed node again, with what follows it. */
export function restoreNode(conversation, node) {
    Object.assign(node, { removed: false, updated: Date.now() });
    chooseBranch(conversation, node);
}

/** Return the title for lists: the visitor's, or the beginning of the first question, or the name of the image. */
export function titleOf(conversation) {
    return conversation.title || shownNodes(conversation)[0]?.question.slice(0, 80) || conversation.imageName || "";
}

/** Whether there is nothing to lose in a conversation. */
export function isEmpty(conversation) {
    return branches(conversation, null).length === 0;
}
