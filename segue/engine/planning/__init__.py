"""What is known before a training starts: memory, communication, batch size, learning rate."""
