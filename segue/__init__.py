"""Segue: sequence models from your own data to a deployed model."""
