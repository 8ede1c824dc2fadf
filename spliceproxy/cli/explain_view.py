"""What `explain` found out, as lines: each step of the client's way, and then the upstreams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from spliceproxy.cli import text
from spliceproxy.cli.tables import Cell, Column, Table, wrap
from spliceproxy.cli.views import session_limit, state_cell

_WORD = 10
"""Columns of the word in front of each step."""
_YES, _NO = ("✓", "green"), ("✗", "red")

Json = Mapping[str, Any]
Step = tuple[str, Text]
"""A word, and what is to say about it."""


def explained(answer: Json, width: int | None) -> Iterator[Text]:
    """The lines, no wider than `width` (None: as wide as they are)."""
    word = ""
    for name, said in _steps(answer):
        for number, line in enumerate(wrap(said, None if width is None else width - _WORD)):
            shown = "" if number or name == word else name
            word = name
            yield Text.assemble((shown.ljust(_WORD), "bold"), line)
    for pool in answer["pools"]:
        if pool["upstreams"]:
            yield Text()
            yield from _upstreams(pool, answer["live"]).lines(width)


def _steps(answer: Json) -> Iterator[Step]:
    yield "client", Text(_client(answer))
    if answer["max_sessions"] is not None and answer["live"]:
        yield "sessions", Text(f"{session_limit(answer)} of the listener")
    if answer["proxy_header"] != "off":
        yield "header", Text(_header(answer))
    if answer["access"]["rules"]:
        yield "access", _access(answer["access"])
    for limit in answer["limits"] if answer["access"]["answer"] == "allow" else ():
        yield "limits", Text(f"at the most {limit}")
    for route in answer["routes"]:
        yield "routes", _route(route)
    if answer["routes"] and answer["route"] is None:
        yield "routes", Text("none of them matches")
    if answer["tls"] in _TLS:
        yield "tls", Text(_TLS[answer["tls"]])
    for pool in answer["pools"]:
        yield from _pool(pool)
    if answer["refused"] is not None:
        yield "refused", _refused(answer["refused"])


_TLS = {"ended": "ends here", "passed": "goes on to the upstream as it came"}


def _client(answer: Json) -> str:
    client = answer["client"]
    words = [client["source"] or "without an IP address"]
    if client["protocol"] is not None:
        speaks = "something unknown" if client["protocol"] == "unknown" else client["protocol"]
        words.append(f"speaks {speaks}")
    if client["sni"] is not None:
        words.append(f"asks for {client['sni']}")
    if client["alpn"]:
        words.append(f"offers {', '.join(client['alpn'])}")
    if client["host"] is not None:
        words.append(f"asks for {client['host']}")
    return f"{', '.join(words)}; at listener {answer['listener']}"


def _header(answer: Json) -> str:
    peer = answer["client"]["peer"]
    if answer["proxy_header"] == "expected":
        return f"a connection from {peer} begins with a PROXY header, which says who the client is"
    return "none: its address is not one of those that send PROXY headers"


def _access(access: Json) -> Text:
    allowed = access["answer"] == "allow"
    mark = _YES if allowed else _NO
    what = "may come in" if allowed else "is denied"
    if access["rule"] is not None:
        what += f": access[{access['rule']}] {access['line']}"
    elif allowed:
        what += ": no rule matches"
    return Text.assemble(mark, f" {what}")


def _route(route: Json) -> Text:
    keys = []
    for key in route["keys"]:
        wants = ", ".join(key["wants"])
        mark = _YES if key["matches"] else _NO
        keys.append(Text.assemble(mark, f" {key['key']} {wants}"))
    line = Text.assemble((route["name"], "bold" if route["taken"] else ""), "  ")
    line.append_text(Text("  ").join(keys) if keys else Text("asks for nothing"))
    if route["taken"]:
        line.append(f"  → {_pools(route['pools'])}", "green")
    elif route["matches"]:
        line.append("  (one before it matched)", "dim")
    return line


def _pools(pools: Mapping[str, int]) -> str:
    if len(pools) == 1:
        return next(iter(pools))
    total = sum(pools.values())
    return ", ".join(f"{name} ({text.share(part / total)})" for name, part in pools.items())


def _pool(pool: Json) -> Iterator[Step]:
    words = [pool["pool"]]
    if pool["share"] < 1:
        words.append(f"for {text.share(pool['share'])} of such clients")
    words.append(pool["balance"])
    if pool["tls"]:
        words.append("by TLS")
    if pool["max_sessions"] is not None:
        words.append(text.plural(pool["sessions"], "session") + f" of {pool['max_sessions']}")
    yield "pool", Text.assemble((", ".join(words)), "\n", pool["text"])
    if pool["unknown"]:
        yield "pool", Text(f"not known here: {', '.join(pool['unknown'])}", "yellow")
    if pool["upstream"] is not None:
        yield "upstream", Text(pool["upstream"], "bold green")


def _refused(refused: Json) -> Text:
    said = refused["text"]
    if refused["why"] is not None:
        said += f"; the record says {refused['why']}, and the client meets a {refused['how']}"
    return Text.assemble(_NO, f" {said}")


def _upstreams(pool: Json, live: bool) -> Table:
    table = Table(
        [
            Column(f"upstreams of {pool['pool']}"),
            Column("share", right=True),
            Column("state"),
            Column("tier", right=True, rank=2),
            Column("weight", right=True, rank=1),
            Column("sessions", right=True),
            Column(""),
        ]
    )
    for one in pool["upstreams"]:
        chosen = one["name"] == pool["upstream"]
        table.add(
            Cell(one["name"], "bold green" if chosen else "" if one["candidate"] else "dim"),
            text.share(one["share"]) if one["share"] else text.UNKNOWN,
            state_cell(*one["states"], held_back=one["held_back"]),
            str(one["tier"]),
            str(one["weight"]),
            session_limit(one),
            _remark(one, chosen),
        )
    return table if live else table.without("state", "sessions")


def _remark(upstream: Json, chosen: bool) -> Cell:
    if chosen:
        return Cell("← this one", "green")
    if upstream["next"]:
        return Cell("← next", "green")
    return Cell(upstream["why"], "dim")
