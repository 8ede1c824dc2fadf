"""The data plane's wing: one process, one thread, one event loop."""
