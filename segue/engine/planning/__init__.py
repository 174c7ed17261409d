"""What can be determined before a training: memory, communication, batch size, learning rate."""
