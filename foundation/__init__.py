"""Settings, scripts, files, threads and processes: what any project needs. Nothing here is about speech."""
