"""What the proxy tells about itself: the board in shared memory, session records, the log."""
