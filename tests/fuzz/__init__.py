"""`make fuzz`: bytes that no peer would send, for every parser that reads what peers send."""
