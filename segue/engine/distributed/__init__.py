"""Training one model on several ranks: process groups, layouts, sharded tensors, and a watchdog for hanging ranks."""
