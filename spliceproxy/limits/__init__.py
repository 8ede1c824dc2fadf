"""How many, and how often: counts that all workers share. Pure: no socket, no clock."""
