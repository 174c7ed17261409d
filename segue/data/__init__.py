"""From corpora to batches; knows no task and no model."""
