"""The live page in Dask's own dashboard: what a run tells it, what the scheduler keeps, what is drawn."""
