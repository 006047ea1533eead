"""From any recording to one voice at 16 kHz. Knows nothing of features."""
