"""What happens on a worker: one task in, one result out."""
