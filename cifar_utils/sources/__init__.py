"""What fills `data`: a reader for each kind of source, downloads, and the cache."""
