"""One `dvc repro`, whose stages share what each would otherwise load, start and end again: see ``server``."""

DECIDES_NOTHING = "says where a stage runs, not what it does"
