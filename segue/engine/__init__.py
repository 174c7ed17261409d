"""Training, once; knows no task, no model, no recipe file."""
