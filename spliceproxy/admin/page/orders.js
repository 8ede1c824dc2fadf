// Drain, undrain, weight, reset, reload and log level: what each will do is said before it is done.

import { ask, labelled } from "./dialog.js";
import { make } from "./dom.js";
import { count, listed, plural, silentWords } from "./format.js";

/** Milliseconds: host names are looked up again, and DNS servers may be silent. */
const RELOAD_PATIENCE = 60_000;
const LOG_LEVELS = ["debug", "info", "warning", "error"];

export class Orders {
  /** `done()` is called when something was changed. */
  constructor(api, done) {
    this.api = api;
    this.done = done;
    this.model = null;
  }

  /** Drain a listener, pool or upstream; or end the drain where it is drained. */
  drain(item) {
    if (item.drained) this.#undrain(item);
    else this.#drain(item);
  }

  #drain(item) {
    const { sessions, target } = item;
    const older = this.model.status.older_sessions;
    const end = make("input", { type: "checkbox", id: "drain-end" });
    const seconds = make("input", {
      type: "number",
      id: "drain-seconds",
      min: 1,
      max: 86400,
      value: 60,
      required: "",
      "aria-label": "seconds in which the sessions end",
      disabled: "",
    });
    end.addEventListener("change", () => (seconds.disabled = !end.checked));
    const field = make(
      "div",
      { class: "field" },
      end,
      make("label", { for: "drain-end", text: "End them within" }),
      seconds,
      "seconds",
    );
    ask({
      title: `Drain ${meant(item)}?`,
      sentences: [
        ...this.#drainWords(item),
        goOn(sessions),
        ...(older ? ["Sessions of before an upgrade are meant too."] : []),
      ],
      fields: sessions || older ? [field] : [],
      action: "Drain",
      run: async () => {
        const over = end.checked ? { over: seconds.valueAsNumber } : {};
        const answer = await this.#order("drain", { target, ...over });
        const left = answer.sessions
          ? `${plural(answer.sessions, "session")} left.`
          : "No session is left.";
        const silent = silentWords(answer, "it does not know of this.");
        return `${target} is drained: it takes no new sessions. ${left} ${silent}`.trim();
      },
    });
  }

  #undrain(item) {
    const { kind, target } = item;
    ask({
      title: `Undrain ${meant(item)}?`,
      sentences: [UNDRAINED[kind]],
      action: "Undrain",
      run: async () => {
        const answer = await this.#order("undrain", { target });
        return answer.changed
          ? `${target} takes new sessions again.`
          : `${target} was not drained.`;
      },
    });
  }

  /** What a drain means for those who would come. */
  #drainWords(item) {
    if (item.kind === "listener") {
      return [
        "It gives up its addresses: new clients are refused.",
        "Those that wait in its queue are still served.",
      ];
    }
    const pool = item.kind === "pool" ? item : this.model.pool(item.pool);
    const usable = pool.upstreams.filter((one) => one.states.includes("up"));
    const left = item.kind === "pool" ? [] : usable.filter((one) => one.name !== item.name);
    const takes =
      item.kind === "pool"
        ? "None of its upstreams takes new sessions"
        : "It takes no new sessions";
    if (left.length)
      return [
        `${takes}; ${listed(
          left.map((one) => one.name),
          3,
        )} ${left.length === 1 ? "takes" : "take"} them.`,
      ];
    const whose = pool.usedBy.length
      ? ` New clients of ${listed(pool.usedBy)} that belong there wait in its queue or are refused.`
      : "";
    return [`${takes}, and no other upstream of ${pool.name} can be used.${whose}`];
  }

  /** Set the weight of an upstream. */
  weight(item) {
    const { pool, target, weight, configured_weight: configured } = item;
    const input = make("input", {
      type: "number",
      id: "weight",
      min: 0,
      max: 1000,
      step: 1,
      value: weight,
      required: "",
    });
    const fields = [labelled("Weight", input)];
    if (configured != null && weight !== configured) {
      const back = make("button", { type: "button", text: `Back to ${configured}, as configured` });
      back.addEventListener("click", () => (input.value = configured));
      fields.push(back);
    }
    ask({
      title: `Weight of ${meant(item)}`,
      sentences: [
        `Its share of the new sessions of ${pool}, next to the weights of the others.`,
        "With 0 it takes none. It holds over a reload, until it is set back.",
      ],
      fields,
      action: "Set weight",
      run: async () => {
        const wanted = input.valueAsNumber;
        const answer = await this.#order("weight", {
          target,
          weight: wanted === configured ? null : wanted,
        });
        const word =
          answer.weight === answer.configured_weight
            ? ", as configured"
            : `; the configuration says ${answer.configured_weight}`;
        return `${target} has weight ${answer.weight}${word}.`;
      },
    });
    input.select();
  }

  /** Reset one session. */
  resetOne(session) {
    ask({
      title: "Reset this session?",
      sentences: [
        `${session.client} on ${session.listener} → ${session.upstream ?? session.pool ?? "nobody yet"}.`,
        "Both sides see a reset.",
        `Its record says operator. (${session.session})`,
      ],
      action: "Reset",
      danger: true,
      run: async () => resetWords(await this.#order("reset", { sessions: [session.session] })),
    });
  }

  /** Reset all that match: `where` are the API's filters, `words` says them. */
  resetAll(where, words, matching) {
    ask({
      title: `Reset ${plural(matching, "session")}?`,
      sentences: [
        `All sessions with ${words} end now; both sides see a reset.`,
        "Their records say operator.",
      ],
      action: `Reset ${count(matching)}`,
      danger: true,
      run: async () => resetWords(await this.#order("reset", { where })),
    });
  }

  /** Have the configuration read again; what differs is shown, or what is wrong with it. */
  reload() {
    ask({
      title: "Reload the configuration?",
      sentences: [
        `It is read again from ${listed(this.model.status.config_files)}. Live sessions go on.`,
        "Where something in it is wrong, nothing changes.",
      ],
      action: "Reload",
      run: async () => {
        const { changes } = await this.#order("reload", {}, RELOAD_PATIENCE);
        if (!changes.length) return "Reloaded: the configuration is the one that was in force.";
        const number = plural(changes.length, "change is", "changes are");
        return { sentence: `Reloaded: ${number} in force since now.`, lines: changes };
      },
    });
  }

  /** Set which lines of the log are written. */
  logLevel() {
    const { log_level: level } = this.model.status;
    const select = make(
      "select",
      { id: "level" },
      ...LOG_LEVELS.map((one) => make("option", { value: one, text: one })),
    );
    select.value = level;
    ask({
      title: "Level of the log",
      sentences: [
        "Lines of this level and above are written, by the supervisor and by all workers.",
        "It holds until the proxy ends, or a reload brings another log.level.",
      ],
      fields: [labelled("Level", select)],
      action: "Set level",
      run: async () => {
        const answer = await this.#order("log-level", { level: select.value });
        return `The log level is ${answer.level}; it was ${answer.before}.`;
      },
    });
    select.focus();
  }

  async #order(path, body, patience) {
    const answer = await this.api.post(path, body, patience);
    this.done();
    return answer;
  }
}

const UNDRAINED = {
  listener: "It binds its addresses again and takes new clients.",
  pool: "All of its upstreams take new sessions again.",
  upstream: "It takes new sessions again.",
};

function meant({ kind, name, pool }) {
  return kind === "upstream" ? `${name} of ${pool}` : `${kind} ${name}`;
}

function goOn(sessions) {
  if (!sessions) return "It has no sessions now.";
  return sessions === 1
    ? "Its one session goes on until it ends by itself."
    : `Its ${count(sessions)} sessions go on until they end by themselves.`;
}

function resetWords(answer) {
  const silent = silentWords(answer, "sessions may live on.");
  const done = `${plural(answer.reset, "session was", "sessions were")} reset.`;
  if (silent) return `${done} ${silent}`;
  return answer.reset ? done : "No session was reset: they had ended already.";
}
