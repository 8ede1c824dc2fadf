// What each `why` of a session's end means, in a sentence. Source: telemetry/record.py and docs/.

const WHYS = {
  done: "Both sides had said all they wanted and closed: a normal end.",
  client_reset:
    "The client reset its connection: it gave up, crashed, or closed with bytes unread.",
  upstream_reset:
    "The upstream reset its connection: it crashed, refused the request, or closed with bytes unread.",
  client_error:
    "The kernel told of an error on the client's connection, for instance that it timed out.",
  upstream_error:
    "The kernel told of an error on the upstream's connection, for instance that it timed out.",
  idle_timeout: "Neither side said anything for timeouts.idle.",
  half_close_timeout:
    "One side had said its last word, and the other was silent for timeouts.half_close.",
  session_timeout: "The session reached the age of timeouts.session.",
  connect_refused: "Nobody listens at the upstream, nor at the others that were tried.",
  connect_timeout:
    "The upstream did not answer within timeouts.connect, nor did the others that were tried.",
  connect_failed: "The network could not reach the upstream, nor the others that were tried.",
  no_upstream: "No upstream of the pool could be used: all were down, drained or full.",
  no_source_port: "This machine had no free port left from which to connect to the upstream.",
  no_resources: "This machine had no file descriptor or no memory left.",
  no_route: "No route of the listener fits the client, and it has no pool for those.",
  queue_full: "The pool's queue was full: queue.size clients waited already.",
  queue_timeout:
    "The client waited in the pool's queue for queue.timeout, and its turn did not come.",
  access_denied: "The listener's access rules deny this client.",
  client_limit: "The client's network had limits.per_client.max_sessions sessions already.",
  rate_limit: "More new sessions came than limits.rate allows the listener.",
  client_rate_limit:
    "More new sessions came from the client's network than limits.per_client.rate allows.",
  handshake_limit: "More TLS handshakes were under way than limits.handshakes allows.",
  preread_timeout: "The client did not send what must be known of it within timeouts.preread.",
  bad_proxy_header: "The PROXY header was missing or wrong where one is expected.",
  tls_handshake: "The TLS handshake failed or took too long; the record's tls_error says why.",
  tls_truncated: "One side closed without TLS's close_notify: what came may have been cut off.",
  tls_error: "TLS broke after the handshake; the record's tls_error says why.",
  drained: "Somebody drained it, and its time to end by itself was over.",
  removed: "Its upstream left the configuration, and the pool has on_remove: reset.",
  upstream_down: "Its upstream was found down, and the pool has on_down: reset.",
  failback: "An upstream of a lower tier is back, and the pool has on_failback: reset.",
  operator: "Somebody reset this session by hand.",
  stopped: "The proxy stopped, and the session had not ended within timeouts.drain.",
  worker_died: "Its worker process died, and the session with it.",
  internal_error: "A fault in spliceproxy itself; the log has the details.",
};

/** Ends that are no errors: both sides were done, or a person wanted it. */
export const NORMAL_ENDS = new Set(["done", "drained", "removed", "operator"]);

const HOWS = { fin: "closed", reset: "by a reset", close: "closed by force" };

/** A sentence for a `why`. */
export function whySentence(why) {
  return WHYS[why] ?? "This page does not know this reason yet; docs/operating.md may.";
}

/** `closed`, `by a reset`: how the one who ended a session did so. */
export function howWords(how) {
  return HOWS[how] ?? how;
}
