"""One run's training on one process of a world, and the publishing of what it has learnt."""
