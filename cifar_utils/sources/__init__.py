"""Where images come from: readers of each kind of source, downloads, and the cache."""
