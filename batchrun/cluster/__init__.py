"""Dask clusters: started here or connected to, and the executor that runs tasks on them."""
