"""How fast the steps are, against the plain way and against the limit; see bench.py."""
