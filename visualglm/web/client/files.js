export function saveConversation(app) {}
