/** The log: questions, answers, branches. */

/** Build this part of the page. */
export function buildLog(app) {}
