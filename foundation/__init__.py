"""Settings, scripts, files, threads and processes: what any project needs. It knows nothing of speech."""
