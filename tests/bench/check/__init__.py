"""The guard: what a session and a request cost in calls and instructions, whatever the machine."""
