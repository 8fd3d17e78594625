"""Atrio beside other WSGI servers: what a request costs each of them, in one run on one machine. `make bench` runs it."""
