"""Training, once; knows no task, no model, no recipe file.

To read in this order: task, trainer, step, settings, optimizer, schedule, precision, loading, log. Then distributed/
(many ranks), state/ (what is kept), planning/ (what is known before).
"""
