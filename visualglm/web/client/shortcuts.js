/** Keyboard shortcuts, and the sheet that lists them. */

/** Build this part of the page. */
export function buildShortcuts(app) {}
