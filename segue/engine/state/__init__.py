"""What a training keeps: checkpoints, averaged weights, steps that failed; and what it begins with."""
