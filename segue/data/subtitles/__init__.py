"""Subtitles: written from words with times, and translated in time and in shape."""
