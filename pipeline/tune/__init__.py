"""Searches for the best params of a run, on Ray Tune and Optuna; a trial is a run, with a run's content key."""
