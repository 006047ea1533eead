"""Which utterances are compared, and what their scores mean."""
