/** What an empty conversation shows: examples and what may be asked. */

/** Build this part of the page. */
export function buildWelcome(app) {}
