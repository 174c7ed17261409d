"""Many ranks, one model: who they are, what each one has of it, and who is missing."""
