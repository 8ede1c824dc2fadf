"""What the tests share: a running proxy, upstreams that (mis)behave, loads, and looks at /proc."""
