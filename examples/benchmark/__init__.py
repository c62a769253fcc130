"""The benchmark: time of an update, memory of a step, collectives of a sharded one."""
