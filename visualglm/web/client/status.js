/** The line that says which model answers. */

/** Build this part of the page. */
export function buildStatus(app) {}
