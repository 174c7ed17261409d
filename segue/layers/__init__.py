"""Building blocks that two rooms use unchanged."""
