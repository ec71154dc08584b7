"""A session: its settings, start and end, and the runs that its writers belong to."""
