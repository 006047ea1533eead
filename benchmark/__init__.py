"""Speed measurements: `python3 -m benchmark`."""
