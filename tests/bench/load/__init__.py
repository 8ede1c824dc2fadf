"""The load: wrk, iperf3 and programs of our own; each says what it measured as JSON."""
