"""The server's texts of the page, in Chinese and English: errors and the login page. Others are in the client."""

from model import CHINESE, ENGLISH, Language

Text = dict[Language, str]

ERROR_TEXTS: dict[str, Text] = {
    "busy": {
        CHINESE: "现在提问的人太多了，请稍后再试。",
        ENGLISH: "Too many questions are being answered at the moment. Try again a little later.",
    },
    "forbidden_host": {
        CHINESE: "不允许主机 {host}。要允许它，请在启动网页时使用 --allow-host 并给出此主机名。",
        ENGLISH: "The host {host} is not allowed. To allow it, start the page with --allow-host and this host name.",
    },
    "forbidden_origin": {
        CHINESE: "不允许其他网站的请求。--allow-host NAME 可以允许代理。",
        ENGLISH: "Requests from other sites are not allowed. --allow-host NAME allows a proxy.",
    },
    "image_too_large": {
        CHINESE: "图片文件超过 {limit} MiB，请缩小图片，或另存为 JPEG。",
        ENGLISH: "The image file has more than {limit} MiB. Scale the image down, or save it as JPEG.",
    },
    "internal": {
        CHINESE: "程序内部出错，编号 {id}，详情见服务器日志。请重试。",
        ENGLISH: "Internal error {id}; the server's log has the details. Try again.",
    },
    "invalid_request": {
        CHINESE: "请求的格式不正确：{detail}。请刷新网页后重试。",
        ENGLISH: "The request is invalid: {detail}. Reload the page, then try again.",
    },
    "invalid_setting": {
        CHINESE: "{name} 应为 {minimum} 到 {maximum} 之间的数。",
        ENGLISH: "{name} must be a number from {minimum} to {maximum}.",
    },
    "not_explained": {
        CHINESE: "这个回答太长，无法解释。",
        ENGLISH: "This answer is too long to be explained.",
    },
    "not_found": {CHINESE: "没有这个地址。", ENGLISH: "There is nothing at this address."},
    "not_logged_in": {
        CHINESE: "登录已失效，请刷新网页并重新登录。",
        ENGLISH: "You are not logged in. Reload the page and log in.",
    },
    "out_of_memory": {
        CHINESE: "服务器内存不足，请稍后再试，或减小 max_length。",
        ENGLISH: "The server is short of memory. Try again later, or lower max_length.",
    },
    "too_large": {
        CHINESE: "内容太长：{detail}。请缩短后重试。",
        ENGLISH: "This is too long: {detail}. Shorten it, then try again.",
    },
    "too_slow": {
        CHINESE: "请求没有及时到达服务器，请检查网络后重试。",
        ENGLISH: "The request did not arrive in time. Check the connection, then try again.",
    },
    "unknown_image": {
        CHINESE: "服务器上已没有这张图片，请重新上传。",
        ENGLISH: "The server no longer has this image. Upload it again.",
    },
    "votes_full": {
        CHINESE: "投票文件已满，这一票没有保存。",
        ENGLISH: "The file of votes is full; this vote was not saved.",
    },
}

LOGIN_TEXTS: dict[Language, dict[str, str]] = {
    CHINESE: {
        "title": "登录 VisualGLM",
        "name": "用户名",
        "password": "密码",
        "submit": "登录",
        "wrong": "用户名或密码不正确。",
        "wait": "密码错误次数过多，请在 {seconds} 秒后再试。",
        "other_language": "English",
        "other_code": "en",
        "code": "zh-CN",
    },
    ENGLISH: {
        "title": "Log in to VisualGLM",
        "name": "Name",
        "password": "Password",
        "submit": "Log in",
        "wrong": "The name or the password is wrong.",
        "wait": "Too many wrong passwords. Try again in {seconds} s.",
        "other_language": "中文",
        "other_code": "zh",
        "code": "en",
    },
}


def choose_language(wanted: str | None, accepted: str | None) -> Language:
    """Return the page's language: from `?lang=`, the browser's first supported language, or Chinese.

    Args:
        wanted: value of the query parameter `lang`.
        accepted: the browser's Accept-Language header.
    """
    for code in (wanted, *(accepted or "").split(",")):
        for language in (CHINESE, ENGLISH):
            if code and code.strip().lower().startswith(language.code):
                return language
    return CHINESE
