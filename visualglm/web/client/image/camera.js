/** A dialog that takes a photo with a webcam. */

import { openDialog } from "../core/dialogs.js";
import { element, icon } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { takeImage } from "./image_intake.js";

const QUALITY = 0.92;
const words = texts({
    en: {
        title: "Take a photo",
        take: "Take the photo",
        live: "Camera image",
        other: "Other camera",
        waiting: "Waiting for the camera. The browser may ask you to allow it.",
        denied: "The browser does not allow this page to use the camera. Allow it in the site settings of the address bar.",
        none: "No camera was found.",
        inUse: "The camera cannot be opened. Another program may be using it.",
        name: (time) => `photo ${time}.jpg`,
    },
    zh: {
        title: "拍照",
        take: "拍摄",
        live: "摄像头画面",
        other: "切换摄像头",
        waiting: "正在等待摄像头，浏览器可能会请求你的许可。",
        denied: "浏览器不允许此页面使用摄像头。请在地址栏的网站设置中允许。",
        none: "没有找到摄像头。",
        inUse: "无法打开摄像头，可能正被其他程序使用。",
        name: (time) => `照片 ${time}.jpg`,
    },
});

/** Return why the camera did not start. */
function cameraProblem(error) {
    if (["NotAllowedError", "SecurityError"].includes(error.name)) return words.denied;
    if (["NotFoundError", "OverconstrainedError"].includes(error.name)) return words.none;
    return words.inUse;
}

/** Return the current frame of a video as a JPEG file. */
function frameOf(video) {
    const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}

/** Return the local time as a part of a file name. */
function timeForName() {
    const now = new Date();
    const part = (number) => String(number).padStart(2, "0");
    return `${now.getFullYear()}-${part(now.getMonth() + 1)}-${part(now.getDate())} ${part(now.getHours())}.${part(now.getMinutes())}`;
}

/** Open the dialog; the photo becomes the image. */
export function openCamera(app) {
    const video = element("video", { autoplay: true, playsinline: true, "aria-label": words.live, hidden: true });
    video.muted = true;
    const message = element("p.camera-message", { role: "status" }, words.waiting);
    const take = element("button.button.primary", { type: "button", disabled: true }, icon("camera"), words.take);
    const other = element("button.button", { type: "button", hidden: true }, words.other);
    const stage = element("div.camera-stage", {}, video, message);
    let stream = null;
    let devices = [];
    const stop = () => stream?.getTracks().forEach((track) => track.stop());
    const dialog = openDialog({
        title: words.title,
        className: "camera-dialog",
        content: [stage, element("div.dialog-actions", {}, other, take)],
        onClose: stop,
    });
    const start = async (constraints) => {
        stop();
        try {
            stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 }, ...constraints } });
            if (!dialog.isConnected) return stop(); // closed while the browser asked
            video.srcObject = stream;
            await video.play();
            devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
            other.hidden = devices.length < 2;
            video.hidden = false;
            message.hidden = true;
            take.disabled = false;
            take.focus();
        } catch (error) {
            if (dialog.isConnected) message.textContent = cameraProblem(error);
        }
    };
    other.addEventListener("click", () => {
        const current = stream.getVideoTracks()[0].getSettings().deviceId;
        const index = devices.findIndex(({ deviceId }) => deviceId === current);
        start({ deviceId: { exact: devices[(index + 1) % devices.length].deviceId } });
    });
    take.addEventListener("click", async () => {
        const photo = await frameOf(video);
        dialog.close("");
        takeImage(app, photo, words.name(timeForName()));
    });
    start({ facingMode: "environment" });
}
