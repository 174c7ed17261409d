"""What does a user do with a trained model? The same here and in every runtime it was exported to; no torch."""
