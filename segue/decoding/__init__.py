"""Decoding from scores and step functions; independent of models."""
