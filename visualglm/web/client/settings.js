/** The settings of the sampling. */

/** Build this part of the page. */
export function buildSettings(app) {}
