"""From corpora to batches; independent of tasks and models."""
