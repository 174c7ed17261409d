"""Inference and evaluation with trained models, the same for PyTorch and exported models; does not import torch."""
