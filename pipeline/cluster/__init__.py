"""Training on Ray: launch.py starts a training, connect.py finds the cluster, worker.py trains."""

DECIDES_NOTHING = "where, never what"
