/** The texts of the list of conversations. */

import { texts } from "../core/i18n.js";

function counted(count, name) {
    return `${count} ${name}${count === "1" ? "" : "s"}`;
}

export const words = texts({
    en: {
        title: "Conversations",
        close: "Close the list of conversations",
        new: "New conversation",
        search: "Search the conversations",
        searchShortcut: "Search the conversations",
        hits: (hits, conversations) => `${counted(hits, "hit")} in ${counted(conversations, "conversation")}`,
        noHits: "No hits",
        none: "Nothing here yet. Each conversation is kept in this browser, and nowhere else.",
        today: "Today",
        yesterday: "Yesterday",
        more: "Show older conversations",
        rename: "Rename",
        renameTitle: "Rename the conversation",
        name: "Name",
        delete: "Delete",
        deleted: "The conversation was deleted.",
        untitled: "Untitled",
        forget: "Forget everything…",
        forgetTitle: "Forget everything?",
        forgetText: (count) =>
            `This deletes all conversations of this browser (${count}), their images, what you have typed, the table of the folder, and the settings. It cannot be undone.`,
        forgetAction: "Delete everything",
        forgotten: "Everything was deleted.",
        saveFile: "Save as a file",
        disabled: "This server keeps no history. Conversations are gone when this tab is closed or reloaded: save what you want to keep as a file.",
        unavailable: "This browser stores nothing here, as in a private window. Conversations are gone when this tab is closed or reloaded: save what you want to keep as a file.",
        outdated: "A newer version of this page has changed what is stored. Reload the page to see it. Until then nothing is stored: save what you want to keep as a file.",
        blocked: "Another tab with an older version of this page keeps the conversations from being opened. Close it and reload. Until then nothing is stored.",
    },
    zh: {
        title: "对话列表",
        close: "关闭对话列表",
        new: "新对话",
        search: "搜索对话",
        searchShortcut: "搜索对话",
        hits: (hits, conversations) => `共 ${hits} 处，分布在 ${conversations} 个对话中`,
        noHits: "没有找到",
        none: "这里还没有对话。对话只保存在此浏览器中，不会保存到别处。",
        today: "今天",
        yesterday: "昨天",
        more: "显示更早的对话",
        rename: "重命名",
        renameTitle: "重命名对话",
        name: "名称",
        delete: "删除",
        deleted: "对话已删除。",
        untitled: "未命名",
        forget: "清除所有内容…",
        forgetTitle: "清除所有内容？",
        forgetText: (count) =>
            `将删除此浏览器中的所有对话（${count} 个）及其图片、已输入的文字、文件夹表格和设置，且无法撤销。`,
        forgetAction: "全部删除",
        forgotten: "所有内容已删除。",
        saveFile: "保存为文件",
        disabled: "此服务器不保留历史。关闭或刷新此标签页后对话就会消失：请把需要保留的内容保存为文件。",
        unavailable: "此浏览器不在这里存储任何内容（例如无痕窗口）。关闭或刷新此标签页后对话就会消失：请把需要保留的内容保存为文件。",
        outdated: "新版页面已更改存储的内容。请刷新页面查看。在此之前不会存储任何内容：请把需要保留的内容保存为文件。",
        blocked: "另一个标签页中的旧版页面占用了对话存储。请关闭它并刷新。在此之前不会存储任何内容。",
    },
});
