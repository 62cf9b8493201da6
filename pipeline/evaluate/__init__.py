"""Images to numbers: features, Frechet distance, Inception Score, each a pure function of tensors."""
