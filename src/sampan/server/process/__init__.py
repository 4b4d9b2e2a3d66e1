"""The engine in a process of its own: the wire, both of its ends, and what outlives a restart."""
