"""The training loop, shared by all tasks; it depends on no task, no model and no recipe file.

Suggested reading order: task, trainer, step, settings, optimizer, schedule, precision, loading, log. Then distributed/
(several ranks), state/ (checkpoints, averages, start weights) and planning/ (estimates and trials before a training).
"""
