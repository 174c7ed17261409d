"""Compression of trained models."""
