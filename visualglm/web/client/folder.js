/** A folder of images: one question, a table of answers. */

/** Build this part of the page. */
export function buildFolder(app) {}
