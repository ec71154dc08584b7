"""The collector of one machine: one process without any SDK takes sessions, and hands each to a host that serves many."""
