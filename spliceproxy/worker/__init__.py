"""The data plane's wing: one process, one thread, one event loop.

`worker` obeys the supervisor and counts; `loop` and `timers` call whoever has something to do;
`listener` accepts, `admission` refuses; `session` is one client from accept to record, at the
speed of `bandwidth` and until its `deadline`; `connector` and `pool` find it an upstream, `queue`
is where it waits for one, `replay` finds another one, and `ending` ends sessions on purpose. The
bytes themselves are moved by the relay, whose flows the loop calls directly.
"""

from spliceproxy.lean import structlog_without_rich

structlog_without_rich()
