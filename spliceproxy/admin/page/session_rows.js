// One row of the table of live sessions.

import { Cell, make, setAttribute } from "./dom.js";
import { bytes, count, duration, exactTime, milliseconds, rate } from "./format.js";

export class SessionRow {
  constructor(reset) {
    this.client = new Cell("th", "col-client");
    this.client.node.scope = "row";
    this.where = new Cell("td", "col-where");
    this.phase = new Cell("td", "col-phase");
    const numbers = ["age", "idle", "rate-up", "rate-down", "bytes", "rtt", "rtt-upstream"];
    this.numbers = Object.fromEntries(
      numbers.map((name) => [name, new Cell("td", `number col-${name}`)]),
    );
    this.button = make("button", { type: "button", class: "quiet", text: "reset" });
    this.button.addEventListener("click", () => reset(this.session));
    this.node = make(
      "tr",
      {},
      this.client.node,
      this.where.node,
      this.phase.node,
      ...Object.values(this.numbers).map((cell) => cell.node),
      make("td", { class: "col-reset" }, this.button),
    );
  }

  update(session) {
    this.session = session;
    const { client, listener, pool, upstream, phase } = session;
    this.client.show(client, "", identity(session));
    this.where.show(`${listener} → ${upstream ?? pool ?? "?"}`, "", place(session));
    this.phase.show(...phaseWords(session, phase));
    const show = (name, text, zero, hint = "") =>
      this.numbers[name].show(text, zero ? "zero" : "", hint);
    show("age", duration(session.age_seconds), false, exactTime(Date.parse(session.start)));
    show(
      "idle",
      session.idle_seconds < 1 ? "now" : duration(session.idle_seconds),
      session.idle_seconds < 1,
    );
    show("rate-up", rate(session.rate_up), !session.rate_up);
    show("rate-down", rate(session.rate_down), !session.rate_down);
    show("bytes", bytes(session.bytes_up + session.bytes_down), false, bytesWords(session));
    show("rtt", rtt(session.client_rtt_us), session.client_rtt_us == null, rttWords(session));
    show(
      "rtt-upstream",
      rtt(session.upstream_rtt_us),
      session.upstream_rtt_us == null,
      rttWords(session),
    );
    setAttribute(this.button, "aria-label", `reset the session of ${client}`);
  }
}

function identity(one) {
  const { session, worker, process, older, peer, client, local, sni, alpn } = one;
  const tls = one.tls_version;
  const words = [
    `session ${session}, worker ${worker}`,
    older ? `with process ${process} of before an upgrade` : "",
    `to ${local}`,
    peer === client ? "" : `by ${peer}`,
  ];
  if (sni) words.push(`asks for ${sni}`);
  if (tls || alpn) words.push([tls, alpn].filter(Boolean).join(", "));
  return words.filter(Boolean).join("\n");
}

function place({ listener, route, pool, upstream, retries }) {
  const words = [
    `listener ${listener}`,
    route ? `route ${route}` : "",
    pool ? `pool ${pool}` : "",
    upstream ? `upstream ${upstream}` : "",
  ];
  if (retries) words.push(`${count(retries)} other upstreams were tried before`);
  return words.filter(Boolean).join("\n");
}

/** Before the relay the phase; in it what the two flows do, where they do not simply wait. */
function phaseWords({ flow_up: up, flow_down: down }, phase) {
  if (phase !== "relay") return [phase, "early", `It is in ${phase}: no upstream has it yet.`];
  const flows = [
    [up, "↑"],
    [down, "↓"],
  ].filter(([state]) => state && state !== "open");
  const words = flows.map(([state, arrow]) => `${arrow} ${state}`).join(" ");
  return [words || "open", words ? "" : "zero", `up: ${up}, down: ${down}\n${FLOWS}`];
}

const FLOWS =
  "open: nothing to move; moving: more to come; blocked: its destination is full; paused: bandwidth";

function bytesWords({
  bytes_up: up,
  bytes_down: down,
  spliced_up: splicedUp,
  spliced_down: splicedDown,
}) {
  const spliced = (number) => (number ? `, ${bytes(number)} of it spliced` : "");
  return `up ${bytes(up)}${spliced(splicedUp)}\ndown ${bytes(down)}${spliced(splicedDown)}`;
}

function rtt(microseconds) {
  if (microseconds == null || microseconds >= 1000)
    return milliseconds(microseconds && microseconds / 1000);
  return `${count(microseconds)}\u00a0µs`;
}

function rttWords(session) {
  const side = (name) => {
    const again = session[`${name}_retrans`];
    const words = again ? `, ${count(again)} segments sent again` : "";
    return `${name} ${rtt(session[`${name}_rtt_us`])}${words}`;
  };
  return `${side("client")}\n${side("upstream")}`;
}
