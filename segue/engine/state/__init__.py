"""State of a training: start weights, checkpoints, averaged weights, and replay files of failed steps."""
