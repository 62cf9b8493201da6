"""Training on Ray, which only this folder imports: driver.py starts it, join.py finds the cluster, worker.py trains."""
