"""What a result depends on: the meaning of the code that makes it, and the key of a training."""
