"""A grid of runs, each a process of its own, and the tables that come of it."""
