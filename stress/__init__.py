"""What the project withstands: `python3 -m stress`."""
