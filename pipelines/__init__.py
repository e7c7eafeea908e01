"""Example pipelines, one domain a file: plain functions, one pipeline object, public batchrun names only."""
