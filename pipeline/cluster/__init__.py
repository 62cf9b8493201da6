"""Training on Ray: launch.py starts a training, connect.py finds the cluster, worker.py trains. Samples and features on
Ray: spread.py deals out the chunks, crew.py has the workers, parcel.py what they read."""

DECIDES_NOTHING = "where, never what"
