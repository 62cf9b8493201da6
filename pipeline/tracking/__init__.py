"""The journal on disk, and MLflow fed from it."""

DECIDES_NOTHING = "watches"
