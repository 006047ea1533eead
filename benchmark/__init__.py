"""How fast this is: `python3 -m benchmark`."""
