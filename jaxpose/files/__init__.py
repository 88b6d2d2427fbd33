"""Files of any kind: written whole or not at all, JSON within bounds, and what a field of a record may hold."""
