"""Every chapter against an independent reference: `python3 tests.py`."""
