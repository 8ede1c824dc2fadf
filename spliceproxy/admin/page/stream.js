// Server-sent events by fetch, because an EventSource cannot send a token.

/**
 * The events of a stream of bytes, as `{event, data}`, until it ends. Comments are left out.
 *
 * Source: HTML Living Standard, 9.2.6 Interpreting an event stream.
 */
export async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "message";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event, data: data.join("\n") };
          event = "message";
          data = [];
        } else if (line.startsWith("event:")) {
          event = line.slice(6).trimStart();
        } else if (line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 30_000;

/** One stream of the API that is opened again when it ends, less and less often while it fails. */
export class Stream {
  /** `onOpen()`, `onItem(event, data)`, `onClosed(error)`: null where it simply ended. */
  constructor(api, { onOpen, onItem, onClosed }) {
    this.api = api;
    this.on = { onOpen, onItem, onClosed };
    this.parameters = {};
    this.pause = FIRST_PAUSE;
    this.abort = null;
    this.timer = 0;
  }

  /** Open it, in place of what was open before. */
  open(parameters) {
    this.parameters = parameters;
    this.pause = FIRST_PAUSE;
    this.again();
  }

  /** Try at once, where the next try was still to come: the proxy was heard of again. */
  wake() {
    if (this.timer) this.again();
  }

  again() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.abort?.abort();
    this.abort = new AbortController();
    this.#run(this.abort.signal);
  }

  async #run(signal) {
    let failure = null;
    try {
      const body = await this.api.stream("stream", this.parameters, signal);
      await this.on.onOpen();
      this.pause = FIRST_PAUSE;
      for await (const { event, data } of serverSentEvents(body)) {
        if (signal.aborted) return;
        this.on.onItem(event, JSON.parse(data));
      }
    } catch (error) {
      failure = error;
    }
    if (signal.aborted) return;
    this.on.onClosed(failure);
    this.timer = setTimeout(() => this.again(), this.pause);
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
  }
}
