/** Scrolling of the log: it follows a growing answer, unless the reader has scrolled up. */

const NEAR_PX = 48; // so near to the end, no button is needed
const UP_KEYS = new Set(["ArrowUp", "PageUp", "Home"]);

/**
 * Keep the end of a scrolled area in sight while its content grows, until the reader scrolls up.
 *
 * @param {HTMLElement} area - it scrolls
 * @param {HTMLElement} content - it grows
 * @param {HTMLElement} button - shown while the end is out of sight
 * @returns {{toEnd: Function}} `toEnd` scrolls to the end and follows it again
 */
export function followEnd(area, content, button) {
    let isFollowing = true;
    let lastTop = 0;
    const distance = () => area.scrollHeight - area.clientHeight - area.scrollTop;
    const showButton = () => {
        button.hidden = isFollowing || distance() < NEAR_PX;
    };

    function noteScroll() {
        if (distance() < 1) isFollowing = true;
        else if (area.scrollTop < lastTop) isFollowing = false;
        lastTop = area.scrollTop;
        showButton();
    }

    /** A reader who begins to scroll up is not held back by text that comes at the same moment. */
    function letGo() {
        if (area.scrollHeight > area.clientHeight) isFollowing = false;
    }

    function settle() {
        if (isFollowing) area.scrollTop = area.scrollHeight;
        lastTop = area.scrollTop;
        showButton();
    }

    area.addEventListener("scroll", noteScroll, { passive: true });
    area.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && letGo(), { passive: true });
    area.addEventListener("touchmove", letGo, { passive: true });
    area.addEventListener("keydown", ({ key, target }) => target === area && UP_KEYS.has(key) && letGo());
    const observer = new ResizeObserver(settle);
    observer.observe(area);
    observer.observe(content);

    function toEnd() {
        isFollowing = true;
        settle();
    }
    return { toEnd };
}
