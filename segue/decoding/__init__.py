"""Search: sees scores and step functions, never a model class."""
