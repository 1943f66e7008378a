/** The field for questions, and the button that sends or stops. */

/** Build this part of the page. */
export function buildComposer(app) {}
