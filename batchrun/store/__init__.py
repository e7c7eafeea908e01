"""Where runs live: a database for records, a folder or URL for tables."""
