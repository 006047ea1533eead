"""What `speaker_id.py` and `demo_page.py` share: recordings, the enrolled, who spoke when, and the map. No training."""
