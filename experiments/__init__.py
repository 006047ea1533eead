"""Measurements of a model that take minutes to hours: `python3 -m experiments.conditions`, and others."""
