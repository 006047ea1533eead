"""Stress tests of the project: `python3 -m stress`."""
