"""A study drawn: figures and one HTML page that needs no network."""
