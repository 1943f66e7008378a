/** The image of the conversation: choosing, dropping, pasting, the camera. */

/** Build this part of the page. */
export function buildImagePanel(app) {}
