"""Endpoints, one file for each kind of them, with a list `ENDPOINTS`."""
