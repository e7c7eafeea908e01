"""Tables on their way in and out: sources, slices, frames, result segments."""
