"""Programs that are run in the environments of others, which have nothing of ours: each is a file of its own."""
