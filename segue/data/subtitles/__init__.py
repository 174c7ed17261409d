"""Subtitles: written from timed words, and translated with their timing and layout."""
