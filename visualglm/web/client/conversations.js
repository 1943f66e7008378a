/** The list of earlier conversations. */

/** Build this part of the page. */
export function buildConversations(app) {}
