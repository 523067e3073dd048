"""The store of inspections: what was judged, by which detector, from which image; in SQLite or PostgreSQL."""
