"""The benchmark: spliceproxy beside other proxies, on one machine, in one run. See README.md."""
