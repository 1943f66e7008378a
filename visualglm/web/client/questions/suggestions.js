/** Questions that suit an image: those of an example or a drawn scene, and those that suit the model. */

import { language } from "../core/i18n.js";

/**
 * Return questions in the page's language that may be asked about an image.
 *
 * @param {Object} info - PageInfo
 * @param {Object|null} record - of the image
 */
export function suggestedQuestions(info, record) {
    const general = info.suggestions?.[language()] ?? [];
    if (record?.scene) return record.scene.questions.map(({ question }) => question[language()]);
    const example = record?.example && info.examples.find(({ image }) => image === record.example);
    return [...new Set([...(example?.questions[language()] ?? []), ...general])];
}

/** Return the questions that were not asked in a conversation. */
export function notAsked(questions, conversation) {
    const nodes = Object.values(conversation.nodes).filter(({ removed }) => !removed);
    const asked = new Set(nodes.map(({ question }) => question.trim()));
    return questions.filter((question) => !asked.has(question));
}
