"""Where checkpoints are kept: a folder, or a URL."""

DECIDES_NOTHING = "keeps what training has decided"
