"""Shared by `speaker_id.py` and `demo_page.py`: recordings, enrolled people, who spoke when, the map. No training."""
