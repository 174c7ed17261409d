"""What are other people's formats? One file each."""
