// Browsers start no workers for pages that are opened from the disk, and the search is one. There, a hidden frame
// takes the worker's place: it runs the script, and messages are handed over as events.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.worker = this
      const answer = "window.postMessage = data => " +
        "frameElement.worker.dispatchEvent(new MessageEvent('message', {data}))"
      frame.srcdoc = `<script>${answer}<\/script><script src="${url}"><\/script>`
      this.ready = new Promise(resolve => frame.addEventListener("load", () => resolve(frame.contentWindow)))
      document.body.append(frame)
    }

    postMessage(data) {
      this.ready.then(inside => inside.dispatchEvent(new inside.MessageEvent("message", { data })))
    }
  }
}
