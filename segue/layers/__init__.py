"""Building blocks that several packages share."""
