"""The supervisor's wing: it binds, starts and watches, and never touches a payload byte.

A start goes through it in this order:

- `start`: all that is looked up and tried before anything runs. `names` resolves what is bound,
  `machine` says what there is, `budget` and `limits` what it allows, `pool_options` and `records`
  try what workers will need, `plan` makes the snapshot. `early_signals` hears signals meanwhile.
- `sockets`: the listening sockets. `opening` binds them all or none, with `addresses`, `options`,
  `handed` (from systemd), `holder` (who has our address) and `bind_errors`.
- `supervisor`: the life of the process, with `systemd`, `reaper` (as PID 1) and `obituary`.
- `fleet`: the workers, each a `worker_process`; `service` says who serves which socket, and
  `retire` how a socket is shut without losing a client.
- `discovery`: the upstreams behind host names, SRV records and lists, now and later. `changes`
  holds what is in force; `reload` puts something else there, and `file_watch` asks for it.
- `access`: the tables of who may come in, by rules and by files that are followed.
- `parts`: what follows the configuration beside the workers: `health`, `ejection`, `slow_start`,
  and `aftermath`, which ends sessions whose upstream is gone.
- `doors`: the listening sockets of the admin API. Who serves them is handed down from above, and
  gets a `house`: all that it may see and do. `draining` and `closed` (listeners), `weights` and
  `log_level` are what somebody ordered; `sessions` and `record_streams` ask the workers, `events`
  remembers the log.
- `succession`: a new process takes the place of this one. `upgrade` is the old one's side of it,
  `inherited` the new one's, `handover` what they tell each other. `older` asks those that were
  replaced about their sessions, and `answering` is how one of these answers.
"""

from spliceproxy.lean import structlog_without_rich

structlog_without_rich()

from spliceproxy.control.start import run  # noqa: E402 - it would import it as it is

__all__ = ["run"]
