"""/metrics: metric families, samples rendered from snapshots, and the cache of rendered bytes."""
