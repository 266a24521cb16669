"""The truth: tables, migrations and their rows, on SQLite now and laid out for PostgreSQL too."""
