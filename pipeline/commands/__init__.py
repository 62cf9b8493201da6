"""Commands of genloom that are not stages."""
